"""What a script sets up: exit codes and messages, CPU threads, progress.

By default, OpenMP threads wait by spinning. On a machine that runs other programs as well, they occupy the cores that
the slowest thread needs. OpenMP reads its wait policy when torch is imported. `main_guard` sets it for all scripts;
when using the library, set OMP_WAIT_POLICY=passive, or call `wait_passively` before the first import
of torch. torch starts a thread for each core, in each process; processes on one machine share the cores instead.
"""

import errno
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from tqdm import tqdm

from proxyclip.errors import InputError, NotFound

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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


SECONDS_BETWEEN_LINES = 10
Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item],
    total: int,
    name: str,
    unit: str,
    done: int = 0,
    size: Callable[[Item], int] = lambda _: 1,
    note: Callable[[], str] = lambda: "",
) -> Iterator[Item]:
    """The items, while standard error tells how many units are done of `total`, units a second and the time left.

    done: units that were done before. size: units that an item holds; what goes beyond `total` is not counted. note:
    text behind the rest, asked for whenever a line is written.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=name, unit=unit) as bar:
            for item in items:
                yield item
                bar.set_postfix_str(note(), refresh=False)
                bar.update(min(size(item), total - bar.n))
        return
    started = printed = time.monotonic()
    before = done
    for item in items:
        yield item
        done = min(done + size(item), total)
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES or done == total:
            printed, rate = now, (done - before) / max(now - started, 1e-9)
            left = tqdm.format_interval((total - done) / rate)
            parts = [f"{name}: {done}/{total} {unit}s", f"{rate:.3g} {unit}s/s", f"{left} left", note()]
            print(*filter(None, parts), sep=", ", file=sys.stderr, flush=True)


def main_guard(main):
    """Wraps the `main` of a script: invalid input prints its sentence and exits with code 2, Ctrl-C with 130.

    A path that the system rejects (name too long, disk full) counts as invalid input. If the reader of the output
    closes early, as in `script | head`, the script exits silently with 141, the code for SIGPIPE. Characters that the
    output encoding lacks are escaped. Any other exception is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(*args, **kwargs):
        wait_passively()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(*args, **kwargs)
            except (InputError, NotFound) as error:
                fail(error)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise SystemExit(130) from None
            except OSError as error:
                if isinstance(error, BrokenPipeError) or (error.filename is None and error.errno not in NO_SPACE):
                    raise
                fail(f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror)
            finally:
                if sys.stdout:  # None where a shell closed it: `script >&-`
                    sys.stdout.flush()  # not at exit, where a broken pipe cannot be handled
        except BrokenPipeError:
            drop_output()
            raise SystemExit(141) from None

    return guarded


def fail(error) -> NoReturn:
    """Prints the sentence and exits with code 2."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(1)  # several processes usually fail alike: let the first one report it
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def drop_output() -> None:
    """Discards pending output after its reader has gone, which Python would report at exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
