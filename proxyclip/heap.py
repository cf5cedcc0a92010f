"""Memory of one layer is kept for the next, instead of going back to the system in between.

The system hands memory out again page by page and filled with zeros, which takes up to a tenth of the processor time of
small models. glibc, the C library of most Linux systems, keeps freed blocks up to limits that it raises as it sees
larger ones. Here they are set to the highest values that it would choose. `main_guard` does so for all scripts; when
using the library, call `keep_memory` yourself.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
LARGEST = 32 * 2**20  # bytes of a block: the most that glibc raises its limit to


def keep_memory() -> None:
    """Sets both limits, unless the environment sets anything about them; does nothing without glibc."""
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    set_limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_limit is not None:
        set_limit(MMAP_THRESHOLD, LARGEST)
        set_limit(TRIM_THRESHOLD, 2 * LARGEST)  # of free memory at the end of the heap
