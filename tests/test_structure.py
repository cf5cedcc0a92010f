"""What may import what, what may not appear in the code, and what the wheel holds."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("proxyclip", "datasets", "configs", "heads")
UPSTAIRS = ("tools", "benchmarks")  # as the scripts, they may import all rooms, and no room imports them
FILES = sorted((ROOT / "proxyclip").rglob("*.py"))
MAY_IMPORT = {
    "proxyclip": {"proxyclip"},
    "datasets": {"datasets", "proxyclip"},
    "heads": {"heads", "proxyclip"},
    "configs": {"configs", "datasets", "proxyclip"},
    "tools": {*ROOMS, "tools"},
    "benchmarks": {*ROOMS, "tools", "benchmarks", "eval"},
}
OUTER = {f"proxyclip.{room}" for room in ("evaluation", "folder", "reports", "app", "command", "__main__")}
ENGINE_OF_DATASETS = {"errors", "files", "images", "runtime", "vocabulary", "evaluation.reading"}
FOREIGN_CODE = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.system"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Module -> file, of scripts and rooms
OURS = {
    module_name(file): file
    for file in sorted([*ROOT.glob("*.py"), *(f for room in (*ROOMS, *UPSTAIRS) for f in (ROOT / room).rglob("*.py"))])
}


@cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(file.read_text())))


@cache
def imports(file: Path) -> set[str]:
    """Our own modules that a file imports, anywhere in it."""
    found = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in OURS} or {node.module}
    return {name for name in found if name in OURS}


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
    """Scripts know all rooms but not each other; of the engine, datasets know what reads and writes files, and methods,
    backbones and results do not know who uses them."""
    scripts = {name for name, file in OURS.items() if file.parent == ROOT}
    assert {"eval", "eval_all", "demo", "doctor"} <= scripts
    for name, file in OURS.items():
        room, rooms = name.partition(".")[0], {other.partition(".")[0] for other in imports(file)}
        assert rooms <= MAY_IMPORT.get(room, {name, *ROOMS}), name
        outer = {other for other in imports(file) if ".".join(other.split(".")[:2]) in OUTER}
        assert not outer or ".".join(name.split(".")[:2]) in OUTER or room != "proxyclip", name
        if room == "datasets":
            engine = {other.partition(".")[2] for other in imports(file) if other.startswith("proxyclip.")}
            assert engine <= ENGINE_OF_DATASETS, name


def test_the_engine_is_few_chapters():
    assert len([*(ROOT / "proxyclip").glob("*.py")]) <= 18


def test_nothing_runs_foreign_code_or_hides_errors():
    for file in FILES:
        for node in nodes(file):
            place = f"{file}:{getattr(node, 'lineno', 0)}"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{place}: bare except"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called not in FOREIGN_CODE and "register_forward" not in called, f"{place}: {called}"
                assert options.get("weights_only", "True") == "True", place
                assert called != "torch.load" or "weights_only" in options, place


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
