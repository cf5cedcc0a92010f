"""Several processes, machines and interruptions: every image is segmented once, and none is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_folder import ENVIRONMENT, ROOT, command, draw_images, files_in, segment_there, state_of

COUNT = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw_images(folder, [f"{'a/' if number % 2 else ''}{number}.png" for number in range(COUNT)])
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory):
    """What one process writes."""
    out = tmp_path_factory.mktemp("one") / "out"
    done = segment_there(photos, "--out", out, "--format", "labels", "--format", "coco")
    assert done.returncode == 0, done.stderr
    return contents(out)


def contents(out) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in files_in(out)}


def test_processes_share_the_images(photos, expected, tmp_path):
    out = tmp_path / "out"
    done = segment_there(photos, "--out", out, "--format", "labels", "--format", "coco", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected


def test_workers_read_ahead(photos, expected, tmp_path):
    out = tmp_path / "out"
    done = segment_there(photos, "--out", out, "--format", "labels", "--format", "coco", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected


def test_torchrun_shares_a_folder(photos, expected, tmp_path):
    out = tmp_path / "out"
    arguments = command(photos, "--out", out, "--format", "labels", "--format", "coco")[1:]
    launch = [sys.executable, "-m", "proxyclip.evaluation.launch", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    assert done.stdout.count(f"{COUNT} of {COUNT} inputs are finished") == 1


@pytest.mark.parametrize("victim", ["all", "one"])
def test_a_killed_run_goes_on(photos, expected, tmp_path, victim):
    """After kill -9 of the whole run, or of one of its processes, the same command finishes the job; what was finished
    is left alone."""
    out = tmp_path / "out"
    arguments = command(photos, "--out", out, "--format", "labels", "--format", "coco", "--processes", "2")
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    labels, deadline = out / "labels", time.monotonic() + 200
    while len(files_in(labels)) < 3:
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()
        time.sleep(0.005)
    os.kill(run.pid if victim == "all" else child_of(run.pid), signal.SIGKILL)
    _, told = run.communicate(timeout=100)
    if victim == "one":
        assert run.returncode == 2
        assert told.splitlines()[-1].startswith("error: a process was killed") and "run the same command again" in told
    time.sleep(0.5)  # the processes of a killed run notice it
    before = {name: state for name, state in state_of(labels).items() if not name.startswith(".")}
    assert 3 <= len(before) < COUNT
    done = segment_there(photos, "--out", out, "--format", "labels", "--format", "coco")
    assert done.returncode == 0, done.stderr
    after = state_of(labels)
    assert all(after[name] == state for name, state in before.items())
    assert {name: data for name, data in contents(out).items() if not name.endswith(".tmp")} == expected


def child_of(pid: int) -> int:
    """A process that runs a model."""
    return next(other for other, parent, line in processes() if parent == pid and "segment.py" in line)


def processes() -> Iterator[tuple[int, int, str]]:
    """Number, parent's number and command line of all processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_text()


def test_ray_survives_a_killed_worker(photos, expected, tmp_path):
    out = tmp_path / "out"
    pytest.importorskip("ray.data")
    arguments = command(
        photos, "--out", out, "--format", "labels", "--format", "coco", "--ray", "local", "--processes", "2"
    )
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    labels, deadline = out / "labels", time.monotonic() + 400
    while len(files_in(labels)) < 3:
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()
        time.sleep(0.005)
    os.kill(next(other for other, _, line in processes() if "ray::MapWorker" in line), signal.SIGKILL)
    before = {name: state for name, state in state_of(labels).items() if not name.startswith(".")}
    _, told = run.communicate(timeout=250)
    assert run.returncode == 0, told
    after = state_of(labels)
    assert all(after[name] == state for name, state in before.items())
    assert {name: data for name, data in contents(out).items() if not name.endswith(".tmp")} == expected
