"""The processes of one run, called ranks: which of them does what, and how their results come together.

`torchrun` starts them and sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process, rank 0 of 1. They talk
through gloo on the CPU: only a few objects are exchanged, and it works where NCCL does not (no accelerator, or two
processes on one). PROXYCLIP_PATIENCE is the number of seconds that ranks wait for each other (default 1800).
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from proxyclip.errors import InputError
from proxyclip.runtime import threads_each

PATIENCE = 1800  # seconds: ranks have equal shares, but not equally fast machines
TIME_TO_TELL = 2.0  # seconds, in which the rank that failed prints its reason and torchrun ends all others


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. per_machine: how many of them share this machine."""

    rank: int = 0
    world: int = 1
    per_machine: int = 1
    group: dist.ProcessGroup | None = field(default=None, repr=False, compare=False)  # gloo, None for a single process

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes results."""
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This rank's part of `items`: each item belongs to exactly one rank, and none is repeated as padding."""
        return items[self.rank :: self.world]

    def barrier(self) -> None:
        """Waits for all ranks. A rank that does not arrive in time is named in the InputError of `start_ranks`."""
        if self.group is not None:
            dist.monitored_barrier(self.group, wait_all_ranks=True)

    def broadcast(self, value):
        """Rank 0's value, on every rank."""
        if self.group is None:
            return value
        values = [value]
        self.barrier()
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def gather(self, value) -> list:
        """The values of all ranks, in their order, on every rank."""
        if self.group is None:
            return [value]
        values = [None] * self.world
        self.barrier()
        dist.all_gather_object(values, value, group=self.group)
        return values


@contextmanager
def start_ranks(backend: str = "gloo", advice: str = "no counts are lost: rerun with --resume") -> Iterator[Ranks]:
    """The ranks of this run, connected while the block runs.

    The ranks of one machine share its cores, unless OMP_NUM_THREADS is set. backend: of the default group, which
    DistributedDataParallel uses. advice: what to do when a rank is lost, the end of the error message.

    Raises InputError where the environment does not describe ranks, and where a rank ends or does not arrive in time.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks()
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=end_with_launcher, args=(os.getppid(),), daemon=True).start()
    try:
        patience = int(os.environ.get("PROXYCLIP_PATIENCE", PATIENCE))
        timeout = timedelta(seconds=patience)
        dist.init_process_group(backend, timeout=timeout)
        rank, world = dist.get_rank(), dist.get_world_size()
        per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    except (RuntimeError, ValueError, OverflowError) as error:  # DistNetworkError and DistStoreError are RuntimeErrors
        raise InputError(f"the processes cannot connect: {str(error).splitlines()[0]}") from None
    torch.set_num_threads(threads_each(per_machine))
    try:
        yield Ranks(rank, world, per_machine, dist.new_group(timeout=timeout, backend="gloo"))
    except RuntimeError as error:
        if (reason := describe_lost_rank(error, patience)) is None:
            raise
        time.sleep(TIME_TO_TELL)
        raise InputError(f"{reason}; {advice}") from None
    finally:
        dist.destroy_process_group()


def describe_lost_rank(error: RuntimeError, patience: int) -> str | None:
    """What happened to another rank; None for errors that are not about a connection. Gloo has no error class."""
    text = str(error)
    if missing := re.search(r"Ranks ([\d, ]+) failed to pass monitoredBarrier", text):
        return f"rank {missing[1]} ended or did not answer within {patience} seconds"
    if "monitoredBarrier" in text:  # of the ranks but the first
        return "rank 0 ended, or waits for a rank that ended"
    if "/gloo/" in text or isinstance(error, (dist.DistNetworkError, dist.DistStoreError)):
        return f"another process of this run ended ({text.splitlines()[0]})"
    return None


def end_with_launcher(launcher: int) -> None:
    """Ends this process soon after torchrun was killed, which can no longer stop its processes then.

    Otherwise they would go on writing to a workdir that is believed to be unused.
    """
    while os.getppid() == launcher:
        time.sleep(0.2)
    os._exit(1)


def rank_device(device: str) -> str:
    """The accelerator of this rank: "auto" or "cuda" become "cuda:LOCAL_RANK"; other names stay as they are.

    Raises InputError if there are more ranks on this machine than GPUs.
    """
    if device not in ("auto", "cuda") or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return device
    count, local_rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if local_rank >= count:
        raise InputError(
            f"process {local_rank + 1} of this machine has no GPU, because there are only {count}: start at most "
            f"{count} processes, or choose --device cpu or --device cuda:0"
        )
    return f"cuda:{local_rank}"
