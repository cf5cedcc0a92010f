"""What a script says and exits with, whatever its input, its console and its pipes are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
