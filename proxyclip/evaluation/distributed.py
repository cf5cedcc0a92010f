"""Several processes, one result: who takes which image, and how their counts become one.

`torchrun` starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process, rank 0 of 1.
They talk through gloo on the CPU: all that is exchanged is a few matrices at the end, gloo adds 64-bit integers
exactly, and it works where NCCL does not (no accelerator, or two processes on one).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

LONGEST_WAIT = timedelta(hours=24)  # a rank that fails is noticed by torchrun; a slow one is waited for


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate together."""

    rank: int = 0
    world: int = 1
    per_machine: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes results."""
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This process's part of `items`: every one belongs to exactly one rank, none is repeated to fill up."""
        return items[self.rank :: self.world]

    def from_first(self, value):
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value) -> list:
        """The values of all ranks, in their order, on every rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def sum(self, counts: np.ndarray) -> np.ndarray:
        """The sum over all ranks, on every rank; int64 in, int64 out, exact."""
        if self.world == 1:
            return counts
        total = torch.from_numpy(np.array(counts, np.int64))  # a copy: the reduction happens in place
        dist.all_reduce(total)
        return total.numpy()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of this run, connected while the block runs."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Ranks()
        return
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield Ranks(dist.get_rank(), world, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """The accelerator of this rank: "auto" or "cuda" become "cuda:LOCAL_RANK"; other names stay as they are."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device in ("auto", "cuda") and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return f"cuda:{local_rank % torch.cuda.device_count()}"
    return device
