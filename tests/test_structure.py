"""What may import what, what may not appear in the code, and what the wheel holds."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("proxyclip", "datasets", "configs", "heads")
FILES = sorted((ROOT / "proxyclip").rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Module -> file, of scripts and rooms
OURS = {
    module_name(file): file
    for file in sorted([*ROOT.glob("*.py"), *(f for room in ROOMS for f in (ROOT / room).rglob("*.py"))])
}


def imports(file: Path) -> set[str]:
    """Our own modules that a file imports, anywhere in it, except for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in OURS} or {node.module}
    return {name for name in found if name in OURS}


@pytest.fixture(params=FILES, ids=lambda file: str(file.relative_to(ROOT)))
def source(request) -> str:
    return request.param.read_text()


def test_modules_do_not_import_each_other_in_a_circle():
    """Imports inside functions count as well; a package stands for its __init__.py."""
    graph = {name: {other for other in imports(file) if other != name} for name, file in OURS.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


def test_arrows_point_down():
    """Scripts know configs, heads, datasets and the engine; configs know datasets and the engine; datasets know errors,
    files and images of the engine; the engine knows nothing else of ours."""
    scripts = {name for name, file in OURS.items() if file.parent == ROOT}
    assert {"eval", "eval_all", "demo", "doctor"} <= scripts
    engine_of_datasets = {"errors", "files", "images", "runtime", "vocabulary", "evaluation.reading"}
    for name, file in OURS.items():
        found = imports(file)
        rooms = {other.partition(".")[0] for other in found}
        room = name.partition(".")[0]
        if room == "proxyclip":
            assert rooms <= {"proxyclip"}, name
        elif room == "datasets":
            assert rooms <= {"datasets", "proxyclip"}, name
            engine = {other.removeprefix("proxyclip.") for other in found if other.startswith("proxyclip.")}
            assert engine <= engine_of_datasets, name
        elif room == "configs":
            assert rooms <= {"configs", "datasets", "proxyclip"}, name
        elif room == "heads":
            assert rooms <= {"heads", "proxyclip"}, name
        else:
            assert name in scripts and not rooms & (scripts - {name}), name


def test_nothing_runs_foreign_code_or_hides_errors(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "bare except"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.system"), (
                called
            )
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only", "True") == "True"
            assert called != "torch.load" or "weights_only" in options
            assert "register_forward" not in called, "hook"


def test_the_wheel_holds_every_package():
    # No toml reader in Python 3.10: the list is a Python literal.
    line = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("packages ="))
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in FILES}
    assert sorted(ast.literal_eval(line.partition("=")[2].strip())) == sorted(packages)


def test_importing_is_quick_and_leaves_torch_alone():
    code = "import sys, time; t = time.perf_counter(); import proxyclip; print(time.perf_counter() - t); "
    code += "print(sorted({'torch', 'numpy', 'PIL', 'open_clip', 'timm', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, loaded = done.stdout.splitlines()
    assert float(seconds) < 1
    assert loaded == "[]"


def test_no_help_text_waits_for_torch():
    """Of any script, of the tools that people call, and of the installed command."""
    scripts = [*sorted(ROOT.glob("*.py")), ROOT / "tools" / "show_samples.py"]
    commands = [[str(script)] for script in scripts]
    commands += [[str(ROOT / "proxyclip" / "__main__.py"), *name] for name in ([], ["segment"], ["app"], ["presets"])]
    code = """
import contextlib, io, json, runpy, sys
for command in json.loads(sys.argv[1]):
    sys.argv = [*command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        runpy.run_path(command[0], run_name="__main__")
    print(*command[1:], len(text.getvalue()) > 100 and "torch" not in sys.modules, command)
"""
    given = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(commands) >= 13, done.stderr
    assert not [line for line in lines if " True " not in f" {line}"], done.stdout


def test_every_public_name_is_there():
    import proxyclip

    for name in proxyclip.__all__:
        assert getattr(proxyclip, name).__name__ == name
        assert name in dir(proxyclip)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        proxyclip.lod  # noqa: B018
