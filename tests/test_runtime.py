"""What a script says and exits with, whatever its input, console and pipes are; and how processes share the cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_helper
import torch

from proxyclip import runtime
from proxyclip.folder.run import choose_processes

HERE = Path(__file__).resolve().parents[1]
SCRIPT = """
import errno, os, sys
from proxyclip.errors import InputError
from proxyclip.runtime import main_guard

@main_guard
def main():
    what = sys.argv[1]
    if what == "print":
        for _ in range(int(sys.argv[2])):
            print("\\u00fc\\u65e5\\u672c \\ud800", "x" * 80)
    elif what == "read":
        open(sys.argv[2])
    elif what == "space":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif what == "defect":
        raise OSError(errno.EBADF, "Bad file descriptor")
    elif what == "environment":
        print({name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")})
    else:
        raise InputError(what)

main()
"""


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    command, here = [sys.executable, "-c", SCRIPT, *map(str, arguments)], os.environ.copy()
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "LOCAL_RANK"):
        here.pop(name, None)
    return subprocess.run(command, cwd=HERE, env=here | environment, capture_output=True, timeout=60)


@pytest.mark.parametrize("rank", ["0", "1", "x"])
def test_bad_input_is_one_sentence(rank):
    done = run("the value 3 is too large", LOCAL_RANK=rank)
    assert (done.returncode, done.stderr) == (2, b"error: the value 3 is too large\n")


def test_what_the_system_refuses_is_one_sentence():
    name = "x" * 300
    done = run("read", name)
    assert (done.returncode, done.stderr) == (2, f"error: {name}: File name too long\n".encode())
    done = run("space")
    assert (done.returncode, done.stderr) == (2, b"error: No space left on device\n")


def test_a_defect_keeps_its_traceback():
    done = run("defect")
    assert done.returncode == 1 and b"Traceback" in done.stderr and b"Bad file descriptor" in done.stderr


@pytest.mark.parametrize("lines", [1, 10_000])  # less, and more, than what is collected before it is written
def test_a_reader_that_leaves_early(lines):
    reading, writing = os.pipe()
    os.close(reading)
    here = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writing) as output:
        command = [sys.executable, "-c", SCRIPT, "print", str(lines)]
        done = subprocess.run(command, cwd=HERE, env=here, stdout=output, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LC_ALL": "C"}, "ü日本 \\ud800".encode()),
        ({"PYTHONIOENCODING": "latin-1"}, b"\xfc\\u65e5\\u672c \\ud800"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"\\xfc\\u65e5\\u672c \\ud800"),
    ],
)
def test_any_console_prints_any_name(environment, expected):
    done = run("print", 1, **environment)
    assert done.returncode == 0 and done.stdout.startswith(expected)


def test_threads_wait_asleep_unless_the_user_says_otherwise():
    assert run("environment").stdout == b"{'OMP_WAIT_POLICY': 'passive', 'KMP_BLOCKTIME': '0'}\n"
    done = run("environment", OMP_WAIT_POLICY="active")
    assert done.stdout == b"{'OMP_WAIT_POLICY': 'active', 'KMP_BLOCKTIME': None}\n"


@pytest.mark.parametrize("script", ["demo", "eval", "eval_all", "doctor"])
def test_scripts_import_no_torch_before_they_say_how_threads_wait(script):
    code = f"import sys, {script}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=HERE, timeout=60).returncode == 0


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups that a test writes; the first line of the list of those that this process is in."""
    monkeypatch.setattr(runtime, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(runtime, "MEMBERSHIPS", tmp_path / "list")

    def write(memberships: str, **files: str) -> None:
        (tmp_path / "list").write_text(memberships)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")

    return write


def test_no_control_groups(groups):
    assert runtime.cpu_quota() == float("inf")  # not Linux: there is no list
    groups("4:memory:/a\n0::/\n")
    assert runtime.cpu_quota() == float("inf")


def test_the_least_quota_of_a_group_and_those_around_it(groups):
    groups("0::/a/b\n", **{"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000", "cpu.max": "400000 100000"})
    assert runtime.cpu_quota() == 2.5
    groups("0::/a/b\n", **{"a/b/cpu.max": "50000 100000"})
    assert runtime.cpu_quota() == 0.5 and runtime.cores() == 1
    groups("0::/elsewhere/on/the/host\n")  # as containers see it: the root is theirs
    assert runtime.cpu_quota() == 4


def test_control_groups_of_version_1(groups):
    groups(
        "7:memory:/a\n2:cpu,cpuacct:/a\n",
        **{
            "cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
            "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert runtime.cpu_quota() == 3


def test_cores_are_those_that_the_process_is_bound_to(groups, monkeypatch):
    groups("0::/\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert runtime.cores() == 6
    groups("0::/\n", **{"cpu.max": "350000 100000"})
    assert runtime.cores() == 3


@pytest.fixture
def seven_cores(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 7)
    monkeypatch.setattr("proxyclip.folder.run.cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    del os.environ["OMP_NUM_THREADS"]


def test_a_share_for_each_process_unless_the_user_says_otherwise(seven_cores, monkeypatch):
    assert [runtime.threads_each(processes) for processes in (1, 2, 3, 8)] == [7, 3, 2, 1]
    assert choose_processes(torch.device("cpu"), 10_000, 2, None).threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert runtime.threads_each(2) == 5 and runtime.cores_each(2) == 3
    assert choose_processes(torch.device("cpu"), 10_000, 2, None).threads == 5


def say_threads(ranks, folder):
    (folder / str(ranks.rank)).write_text(f"{torch.get_num_threads()} {ranks.per_machine}")


@pytest.mark.parametrize("local, expected", [(None, "3 2"), ("1", "7 1")])
def test_ranks_started_by_hand_share_the_cores(local, expected, seven_cores, tmp_path, monkeypatch):
    """Those of one machine find each other by its name, unless the variable of torchrun says how many there are."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    ranks_helper.finish(ranks_helper.start(2, say_threads, tmp_path))
    assert {path.read_text() for path in tmp_path.iterdir()} == {expected}
