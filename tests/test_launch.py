"""Several processes fail as one does: with one sentence and an exit code that means something."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_helper
from fake_benchmark import eventually
from ranks_helper import running

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


@pytest.mark.parametrize("given", [None, "5"])
def test_processes_share_the_cores_unless_the_user_says_otherwise(given, monkeypatch):
    from torch.distributed import run

    from proxyclip.evaluation import launch

    started = []
    monkeypatch.setattr(run, "main", lambda arguments: started.append(os.environ["OMP_NUM_THREADS"]))
    monkeypatch.setattr(launch.logging, "disable", lambda level: None)
    monkeypatch.setattr("proxyclip.runtime.cores", lambda: 13)
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")  # and restored at the end
    if not given:
        del os.environ["OMP_NUM_THREADS"]
    assert launch.main(["--nproc_per_node=4", "--master_port=1", "script.py"]) == 0
    assert started == [given or "3"]  # of 13 cores


def test_a_machine_that_was_not_started(monkeypatch, capsys):
    from torch.distributed import DistStoreError, run

    from proxyclip.evaluation import launch

    def wait_in_vain(arguments):
        raise DistStoreError("Timed out after 901 seconds waiting for clients. 1/2 clients joined.")

    monkeypatch.setattr(run, "main", wait_in_vain)
    monkeypatch.setattr(launch.logging, "disable", lambda level: None)
    assert launch.main(["--nnodes=2", "--nproc_per_node=1", "script.py"]) == 2
    assert capsys.readouterr().err.startswith("error: not all machines were started in time: Timed out after 901 sec")


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = launched(tmp_path, 0, taken.getsockname()[1])
    assert done.returncode == 2
    complaint = done.stderr.splitlines()[-1]
    assert complaint.startswith("error: the processes cannot connect: ") and "another port" in complaint


WAITING = """
import os, pathlib, sys, time
from proxyclip.evaluation.ranks import start_ranks
with start_ranks() as ranks:
    pathlib.Path(sys.argv[1], f"{ranks.rank}.tmp").write_text(str(os.getpid()))
    pathlib.Path(sys.argv[1], f"{ranks.rank}.tmp").rename(pathlib.Path(sys.argv[1], f"{ranks.rank}.pid"))
    time.sleep(60)
"""


def test_processes_end_when_their_launcher_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(WAITING)
    command = [sys.executable, "-m", "proxyclip.evaluation.launch", "--nproc_per_node=2", "--master_addr=127.0.0.1",
               f"--master_port={ranks_helper.free_port()}", tmp_path / "script.py", tmp_path]  # fmt: skip
    here = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    launcher = subprocess.Popen(list(map(str, command)), cwd=HERE, env=here)
    assert eventually(lambda: len(list(tmp_path.glob("*.pid"))) == 2, seconds=50)
    ranks = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert all(map(running, ranks))
    launcher.kill()
    launcher.wait()
    assert eventually(lambda: not any(map(running, ranks)))


@pytest.mark.parametrize(
    ("processes", "environment", "sentence"),
    [
        ("0", {}, "PROCESSES must be a whole number from 1 to 256, not '0'"),
        ("10000", {}, "PROCESSES must be a whole number from 1 to 256, not '10000'"),
        ("two", {}, "PROCESSES must be a whole number from 1 to 256, not 'two'"),
        ("2", {"PORT": "99999"}, "PORT must be a whole number from 1 to 65535, not '99999'"),
        ("2", {"PORT": "x"}, "PORT must be a whole number from 1 to 65535, not 'x'"),
        ("2", {"NNODES": "0"}, "NNODES must be a whole number from 1 to 9999, not '0'"),
        ("2", {"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK must be a whole number from 0 to 1, not '2'"),
        ("2", {"MASTER_ADDR": "a..b"}, "MASTER_ADDR: no host 'a..b' found"),
    ],
)
def test_dist_test_checks_its_numbers(processes, environment, sentence):
    command = ["bash", str(HERE / "dist_test.sh"), "cfg_scenes", processes]
    here = os.environ | {"PYTHON": sys.executable} | environment
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (2, f"error: {sentence}\n")
