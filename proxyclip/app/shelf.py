"""What is held in memory for the people on the page, each thing under a key that nobody can guess."""

import secrets
import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    nbytes: int


Thing = TypeVar("Thing", bound=Sized)


class Shelf(Generic[Thing]):
    """Things by key, at most `max_bytes` of them; those not used for the longest time are dropped first.

    The thing put last stays, however large it is. Threads may share a shelf.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes = max_bytes, 0
        self._things: OrderedDict[str, tuple[Thing, int]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, thing: Thing) -> str:
        """Its key."""
        key, size = secrets.token_urlsafe(16), thing.nbytes
        with self._lock:
            self._things[key] = thing, size
            self.bytes += size
            while self.bytes > self.max_bytes and len(self._things) > 1:
                self.bytes -= self._things.popitem(last=False)[1][1]
        return key

    def get(self, key: str) -> Thing | None:
        """The thing, if it is still held."""
        with self._lock:
            if key not in self._things:
                return None
            self._things.move_to_end(key)
            return self._things[key][0]

    def drop(self, key: str) -> None:
        with self._lock:
            if key in self._things:
                self.bytes -= self._things.pop(key)[1]

    def __len__(self) -> int:
        return len(self._things)
