"""Distributed evaluation: which rank processes which image, and how the counts are combined.

`torchrun` starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one process, rank 0 of 1.
Ranks communicate through gloo on the CPU: only a few matrices are exchanged at the end, gloo adds 64-bit integers
exactly, and it works where NCCL does not (no accelerator, or two processes on one).

Before they exchange anything the ranks meet, see `peers`: one may wait for the others as long as these are alive, and
an exchange itself takes seconds. PROXYCLIP_PATIENCE is the number of seconds after which a silent rank is lost.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from proxyclip.errors import InputError
from proxyclip.evaluation.peers import Lost, Peers
from proxyclip.runtime import threads_each

PATIENCE = 300  # seconds
LONGEST_EXCHANGE = 600  # seconds: of one exchange, or of the difference between ranks within an iteration of training
TIME_TO_TELL = 5.0  # seconds: the rank that ended knows the reason, and once it has told it torchrun ends the others
MOST_RANKS = 100_000


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    per_machine: int = 1
    peers: Peers | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes results."""
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This rank's part of `items`: each item belongs to exactly one rank, and none is repeated as padding."""
        return items[self.rank :: self.world]

    def meet(self) -> None:
        """Waits for all ranks, however long they take; InputError if one of them is lost."""
        if self.peers:
            self.peers.meet()

    def from_first(self, value):
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        self.meet()
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value) -> list:
        """The values of all ranks, in their order, on every rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        self.meet()
        dist.all_gather_object(values, value)
        return values

    def sum(self, counts: np.ndarray) -> np.ndarray:
        """The sum over all ranks, on every rank; int64 in, int64 out, exact."""
        if self.world == 1:
            return counts
        total = torch.from_numpy(np.array(counts, np.int64))  # a copy: the reduction happens in place
        self.meet()
        dist.all_reduce(total)
        return total.numpy()


@contextmanager
def joined(backend: str = "gloo", to_continue: str = "no counts are lost: rerun with --resume") -> Iterator[Ranks]:
    """The ranks of this run, connected while the block runs. InputError if the environment does not describe any, and
    where another rank ends, is not heard from any more, or never arrives.

    The ranks of one machine share its cores, unless OMP_NUM_THREADS is set, as torchrun sets it.

    backend: as torch.distributed names it; objects and arrays always need gloo for "cpu". to_continue: what to do after
    the loss of a rank, for the error message.
    """
    world = from_environment("WORLD_SIZE", 1, 1, MOST_RANKS)
    if world == 1:
        yield Ranks()
        return
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise InputError(f"WORLD_SIZE is {world} but {name} is not set: start with torchrun or dist_test.sh")
    rank = from_environment("RANK", 0, 0, world - 1)
    patience = from_environment("PROXYCLIP_PATIENCE", PATIENCE, 1, 10**6)
    per_machine = from_environment("LOCAL_WORLD_SIZE", world, 1, world) if "LOCAL_WORLD_SIZE" in os.environ else None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=end_with_launcher, args=(os.getppid(),), daemon=True).start()
    group, store = connected(rank, patience), connected(None, patience)
    peers = Peers(store, rank, world, patience, to_continue)
    try:
        peers.arrive()
        per_machine = per_machine or peers.on_this_machine()
        torch.set_num_threads(threads_each(per_machine))
        longest = timedelta(seconds=max(patience, LONGEST_EXCHANGE))
        dist.init_process_group(backend, timeout=longest, store=group, rank=rank, world_size=world)
        try:
            yield Ranks(rank, world, per_machine, peers)
        finally:
            dist.destroy_process_group()
    except BaseException as error:
        if is_of_connection(error):
            error = peers.explain(error)
        peers.leave(error)
        if isinstance(error, Lost):
            time.sleep(TIME_TO_TELL)
            raise error from None
        raise
    peers.leave(None)


def connected(rank: int | None, patience: float) -> dist.Store:
    """A client of the store through which ranks find each other; rank 0 serves it, unless torchrun does."""
    host, port = os.environ["MASTER_ADDR"], from_environment("MASTER_PORT", 0, 0, 65535)
    check_host(host)
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = dist.TCPStore(
            *(host, port, None, serves, timedelta(seconds=patience)), wait_for_workers=False, multi_tenant=True
        )
    except (RuntimeError, ValueError) as error:  # DistNetworkError and DistStoreError are RuntimeErrors
        raise InputError(f"the processes cannot connect: {str(error).splitlines()[0]}") from None
    return dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def is_of_connection(error: BaseException) -> bool:
    """Whether gloo or the store lost a connection: gloo has no class of errors of its own."""
    lost = isinstance(error, (dist.DistNetworkError, dist.DistStoreError))
    return lost or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def check_host(name: str) -> None:
    """InputError for an unknown host, which torch would otherwise try to resolve until its timeout."""
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError) as error:
        raise InputError(f"MASTER_ADDR: no host {name!r} found ({error})") from None


def end_with_launcher(launcher: int) -> None:
    """Ends this process soon after torchrun was killed, which can no longer stop its processes then.

    Otherwise they would go on writing to a workdir that is believed to be unused.
    """
    while os.getppid() == launcher:
        time.sleep(0.2)
    os._exit(1)


def own_device(device: str) -> str:
    """The accelerator of this rank: "auto" or "cuda" become "cuda:LOCAL_RANK"; other names stay as they are.

    Raises InputError if there are more ranks on this machine than GPUs.
    """
    if device in ("auto", "cuda") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        count = torch.cuda.device_count()
        local_rank = from_environment("LOCAL_RANK", 0, 0, MOST_RANKS)
        if local_rank >= count:
            raise InputError(
                f"process {local_rank + 1} of this machine has no GPU, because there are only {count}: start at most "
                f"{count} processes, or choose --device cpu or --device cuda:0"
            )
        return f"cuda:{local_rank}"
    return device


def from_environment(name: str, default: int, lowest: int, highest: int) -> int:
    """An environment variable as a whole number; InputError if it is not one, or out of range."""
    value = os.environ.get(name) or str(default)
    if not (value.isascii() and value.isdigit()) or not lowest <= int(value[:20]) <= highest:
        raise InputError(f"the variable {name} must be a whole number from {lowest} to {highest}, not {value!r}")
    return int(value)
