"""A cache of tensors with a limit in bytes rather than entries, so that large images do not fill the memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class BoundedCache:
    """Least recently used values are dropped once all of them together take more than `max_bytes`.

    size_of: bytes of a value. Threads may share it.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[object], int]):
        self.max_bytes, self.size_of = max_bytes, size_of
        self.values: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self.bytes = 0
        self.lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], object]):
        """The value of `key`, made if it is not there; a value larger than the whole cache is not stored."""
        with self.lock:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key][0]
        value = make()
        size = self.size_of(value)
        with self.lock:
            if size <= self.max_bytes and key not in self.values:
                self.values[key] = value, size
                self.bytes += size
            while self.bytes > self.max_bytes:
                self.bytes -= self.values.popitem(last=False)[1][1]
        return value
