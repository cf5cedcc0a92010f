"""Processes on one machine share its cores."""

import os

import pytest
import ranks_helper
import torch

from proxyclip import runtime
from proxyclip.folder.crew import crew_for


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
    monkeypatch.setattr("proxyclip.folder.crew.cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    del os.environ["OMP_NUM_THREADS"]


def test_a_share_for_each_process_unless_the_user_says_otherwise(seven_cores, monkeypatch):
    assert [runtime.threads_each(processes) for processes in (1, 2, 3, 8)] == [7, 3, 2, 1]
    assert crew_for(torch.device("cpu"), 10_000, 2, None).threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert runtime.threads_each(2) == 5 and runtime.cores_each(2) == 3
    assert crew_for(torch.device("cpu"), 10_000, 2, None).threads == 5


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
