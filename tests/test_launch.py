"""Several processes fail as one does: with one sentence and an exit code that means something."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_helper

HERE = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, sys, time
if os.environ["RANK"] == "1":
    print("error: this is wrong", file=sys.stderr, flush=True)
    sys.exit(int(sys.argv[1]))
time.sleep(60)
"""


def launched(tmp_path, argument, port) -> subprocess.CompletedProcess:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "proxyclip.evaluation.launch", "--nproc_per_node=2", "--master_addr=127.0.0.1",
               f"--master_port={port}", tmp_path / "script.py", argument]  # fmt: skip
    here = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), cwd=HERE, env=here, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(
    ("code", "ends_with", "more"), [(2, 2, []), (7, 1, ["error: process 1 ended with exit code 7"])]
)
def test_a_failure_is_told_once(code, ends_with, more, tmp_path):
    done = launched(tmp_path, code, ranks_helper.free_port())
    assert done.stderr.splitlines() == ["error: this is wrong", *more]
    assert done.returncode == ends_with


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = launched(tmp_path, 0, taken.getsockname()[1])
    assert done.returncode == 2
    complaint = done.stderr.splitlines()[-1]
    assert complaint.startswith("error: the processes cannot meet: ") and "another port" in complaint
