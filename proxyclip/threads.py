"""CPU threads: how many each process may use, and that they sleep while they wait for each other.

By default, OpenMP threads wait by spinning. On a machine that runs other programs as well, they occupy the cores that
the slowest thread needs. OpenMP reads its wait policy when torch is imported. `main_guard` sets it for all scripts;
when using the library, set OMP_WAIT_POLICY=passive in the environment, or call `wait_passively` before the first import
of torch.

torch starts a thread for each core, in each process. Several processes on one machine share the cores instead.
"""

import os
from pathlib import Path

CGROUPS, MEMBERSHIPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def wait_passively() -> None:
    """Lets OpenMP threads sleep while waiting, unless the environment sets a policy. Call it before importing torch."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # GNU's OpenMP, of torch's wheels for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's


def cores() -> int:
    """The cores that this process may use: those it is bound to, or fewer where a container limits its time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, cpu_quota())))


def cores_each(processes: int) -> int:
    """The share of one of so many processes on this machine; at least 1."""
    return max(1, cores() // processes)


def threads_each(processes: int) -> int:
    """CPU threads for each of so many processes: OMP_NUM_THREADS, if it is set, else a share of the cores."""
    if "OMP_NUM_THREADS" not in os.environ:
        return cores_each(processes)
    import torch

    return torch.get_num_threads()  # it has read the variable


def cpu_quota() -> float:
    """The least quota of CPU time, in cores, of the control groups that this process is in; inf if there is none."""
    if not MEMBERSHIPS.exists():  # not Linux
        return float("inf")
    quotas = [float("inf")]
    for line in MEMBERSHIPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = CGROUPS / controllers  # of version 2, whose line names no controller, the root of all
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            quotas.append(quota_of(folder))
            if folder == root:
                break
    return min(quotas)


def quota_of(group: Path) -> float:
    """The quota of one control group, in cores."""
    try:
        if (group / "cpu.max").exists():  # version 2: "150000 100000" or "max 100000"
            quota, period = (group / "cpu.max").read_text().split()
        else:  # version 1: -1 without a limit
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text().strip().replace("-1", "max") for name in ("quota", "period")
            )
    except OSError:  # the group has no limits, or is not visible in this container
        return float("inf")
    return float("inf") if quota == "max" else int(quota) / int(period)
