"""What may import what, what may not appear in the code, and what the wheel holds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "proxyclip").rglob("*.py"))
OURS = {path.stem for path in ROOT.glob("*.py")} | {"datasets", "heads", "configs", "benchmarks", "tests", "tools"}


@pytest.fixture(params=FILES, ids=lambda file: str(file.relative_to(ROOT)))
def source(request) -> str:
    return request.param.read_text()


def imported(tree) -> set[str]:
    """First parts of the names of all imported modules."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names}


def test_the_engine_knows_no_dataset_head_or_config(source):
    assert not imported(ast.parse(source)) & OURS


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


def test_files_are_short(source):
    assert len(source.splitlines()) < 300


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


def test_every_public_name_is_there():
    import proxyclip

    for name in proxyclip.__all__:
        assert getattr(proxyclip, name).__name__ == name
        assert name in dir(proxyclip)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        proxyclip.lod  # noqa: B018
