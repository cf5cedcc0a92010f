"""Outputs that cannot be written: what was computed is not lost for them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import eval as eval_script
from configs import benchmark_run
from proxyclip.errors import InputError

HERE = Path(__file__).resolve().parents[1]
CLOSED = """
from proxyclip.errors import InputError
from proxyclip.runtime import main_guard
@main_guard
def main():
    print('x')
"""


@pytest.mark.parametrize(("closed", "body", "code"), [
    (">&-", "", 0), ("2>&-", "", 0), (">&- 2>&-", "", 0), (">&- 2>&-", "    raise InputError('no')\n", 2),
])  # fmt: skip
def test_streams_that_a_shell_closed(closed, body, code):
    command = ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, f"{CLOSED}{body}main()"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, timeout=60)
    assert done.returncode == code and b"Traceback" not in done.stderr


@pytest.fixture
def evaluate(tmp_path):
    return lambda: eval_script.main(
        ["--config", "scenes", "--model", "mini", "--limit", "1", "--workers", "0", "--device", "cpu", "--workdir",
         str(tmp_path)]
    )  # fmt: skip


def test_scores_that_cannot_be_printed_are_in_the_log(tmp_path, evaluate, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(benchmark_run, "format_run", full)
    with pytest.raises(SystemExit):
        evaluate()
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["images"] == 1


def test_scores_that_cannot_be_logged_are_printed(tmp_path, evaluate, monkeypatch, capsys):
    def full(*_):
        raise InputError("the result cannot be written")

    monkeypatch.setattr(benchmark_run, "append_run", full)
    with pytest.raises(SystemExit):
        evaluate()
    assert "mIoU" in capsys.readouterr().out
    assert list(tmp_path.glob("progress/*/*.jsonl"))  # for --resume
