"""Which ranks of a run are still there: each one tells the others every few seconds, and is missed when it does not.

A rank may honestly be waited for as long as it takes: others finished their share earlier. No timeout can tell that
from a machine that lost its power, for which nobody closes a connection. Hence every rank counts up a number in the
store that `torchrun` or rank 0 serves ("beats"), and a rank that waits for the others looks at their numbers.
"""

import contextlib
import math
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from proxyclip.errors import InputError

BEATS = 10  # within the patience: the more, the less a short pause of a rank matters
SLOWEST_BEAT = 5.0  # seconds
SILENT = 3  # beats, after which a rank is gone if a connection has broken as well
PAUSES = 20  # while waiting: the last one is at most this part of the wait, and of a second
MOST_LISTED = 8


class Lost(InputError):
    """Another rank ended, or cannot be reached."""


class Peers:
    """The ranks of a run, as one of them sees the others.

    store: a client of the run's store that nothing else uses. patience: seconds after which a rank that is not heard
    from is lost. to_continue: what to do then, the end of the error message.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, patience: float, to_continue: str):
        self.rank, self.world, self.patience, self.to_continue = rank, world, patience, to_continue
        self.beat = min(SLOWEST_BEAT, patience / BEATS)
        self.meetings, self.hosts = 0, {rank: socket.gethostname()}
        self.heard: dict[int, tuple[bytes, float]] = {}  # rank -> its number, and when that was new
        self.requests = queue.SimpleQueue()
        threading.Thread(target=self.serve, args=(store,), daemon=True).start()

    def arrive(self) -> None:
        """Waits for all ranks at the start. Raises Lost and names those that are missing when the patience is over."""
        keys = [f"host/{rank}" for rank in range(self.world)]
        self.ask(lambda store: store.set(keys[self.rank], self.hosts[self.rank]))
        try:
            self.wait(self.patience)
        except TimeoutError:
            here = self.ask(lambda store: [store.check([key]) for key in keys])
            raise self.lost(self.tell(self.missing([rank for rank in range(self.world) if not here[rank]]))) from None
        names = self.ask(lambda store: store.multi_get(keys))
        self.hosts = {rank: name.decode() for rank, name in enumerate(names)}

    def missing(self, ranks: list[int]) -> str:
        names = ", ".join(map(str, ranks[:MOST_LISTED])) + ", ..." * (len(ranks) > MOST_LISTED)
        return (
            f"{len(ranks)} of {self.world} processes did not arrive within {duration(self.patience)} (rank {names}): "
            "start all of them, with the same MASTER_ADDR and MASTER_PORT"
        )

    def on_this_machine(self) -> int:
        """How many of the ranks share this machine, this one included."""
        return [*self.hosts.values()].count(self.hosts[self.rank])

    def meet(self) -> None:
        """Waits until all ranks call this, however long it takes; raises Lost if one of them is lost."""
        self.wait(math.inf)

    def wait(self, longest: float) -> None:
        """Raises TimeoutError after so many seconds."""
        key = f"meeting/{self.meetings}"
        there = self.ask(lambda store: store.add(key, 1))
        began = looked = time.monotonic()
        while there < self.world:
            now = time.monotonic()
            if now - began > longest:
                raise TimeoutError
            if now - looked > self.beat:
                self.hear_news()
                if self.meetings:  # at the start, the others may not beat yet
                    self.hear_beats(self.patience)
                looked = now
            time.sleep(min(1.0, max(now - began, 0.01)) / PAUSES)
            there = self.ask(lambda store: store.add(key, 0))
        self.hear_news()  # others may have given up just before this rank came
        if self.rank == 0 and self.meetings:  # whoever is here has left the meeting before this one
            self.ask(lambda store: store.delete_key(f"meeting/{self.meetings - 1}"))
        self.meetings += 1

    def hear_news(self) -> None:
        """Raises Lost if a rank told that one is lost."""
        if self.ask(lambda store: store.check(["lost"])):
            raise self.lost(self.ask(lambda store: store.get("lost")).decode())

    def hear_beats(self, patience: float) -> None:
        """Raises Lost if a rank has not been heard from for so many seconds."""
        numbers = self.ask(lambda store: store.multi_get([f"beat/{rank}" for rank in range(self.world)]))
        now = time.monotonic()
        for rank, number in enumerate(numbers):
            known, since = self.heard.get(rank, (None, now))
            if number != known:
                self.heard[rank] = number, now
            elif now - since > patience:
                raise self.lost(self.tell(f"{self.name(rank)} has not been heard from for {duration(now - since)}"))

    def explain(self, error: Exception) -> Lost:
        """Why a connection broke: waits until a rank is known to be lost, a few beats at most."""
        end = time.monotonic() + (SILENT + 2) * self.beat
        try:
            while time.monotonic() < end:
                self.hear_news()
                self.hear_beats(SILENT * self.beat)
                time.sleep(self.beat / 2)
        except Lost as lost:
            return lost
        return self.lost(f"another process of this run ended ({first_line(error)})")

    def leave(self, error: BaseException | None) -> None:
        """Ends the beats. error: why this rank leaves the run, for the others."""
        if error is not None and not isinstance(error, Lost):
            reason = first_line(error) if isinstance(error, InputError) else type(error).__name__
            with contextlib.suppress(Lost):  # the store is gone: the others see that for themselves
                self.tell(f"{self.name(self.rank)} ended ({reason})", self.beat)
        self.requests.put(None)

    def tell(self, what: str, within: float | None = None) -> str:
        """Tells all ranks what was lost, and returns what was lost first: the rest follows from it."""
        return self.ask(lambda store: store.compare_set("lost", "", what), within).decode()

    def name(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}" if rank in self.hosts else f"rank {rank}"

    def lost(self, what: str) -> Lost:
        return Lost(f"{what}; {self.to_continue}")

    def ask(self, operation: Callable[[dist.Store], Any], within: float | None = None):
        """The result of an operation of the store; Lost if there is none within so many seconds (the patience)."""
        reply = queue.SimpleQueue()
        self.requests.put((operation, reply))
        try:
            result = reply.get(timeout=self.patience if within is None else within)
        except queue.Empty:
            result = RuntimeError("no answer")
        if isinstance(result, RuntimeError):
            raise self.lost(f"{self.name(0)} ended or cannot be reached ({first_line(result)})")
        return result

    def serve(self, store: dist.Store) -> None:
        """Beats, and does what is asked for; in a thread, since a call to a machine without power does not return."""
        due, beat = 0.0, f"beat/{self.rank}"
        while True:
            if time.monotonic() >= due:
                result_of(lambda store: store.add(beat, 1), store)  # an error is that of the next request, too
                due = time.monotonic() + self.beat
            try:
                request = self.requests.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                continue
            if request is None:
                return
            operation, reply = request
            reply.put(result_of(operation, store))


def result_of(operation: Callable[[dist.Store], Any], store: dist.Store):
    """The result, or the error of a broken connection."""
    try:
        return operation(store)
    except RuntimeError as error:  # DistNetworkError, DistStoreError
        return error


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
