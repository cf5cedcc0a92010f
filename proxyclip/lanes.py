"""Two batches at a time on a CPU, each with half of the threads.

The threads of one batch wait for each other after every operation, which costs small models, and all models on busy
machines, more than it gains. Two batches do not wait for each other.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock

import torch

LANES = 2

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and number of threads
_lock = Lock()


def lanes_for(device: torch.device) -> ThreadPoolExecutor | None:
    """Threads that compute batches on this device; None where one batch at a time is computed in the caller's thread:
    on accelerators, for a single thread, and for gradients and autocast, which are settings of the caller's thread."""
    threads = torch.get_num_threads()
    alone = threads < LANES or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    if device.type != "cpu" or alone:
        return None
    with _lock:
        key = os.getpid(), threads
        if key not in _pools:
            _pools[key] = started(threads)
        return _pools[key]


def started(threads: int) -> ThreadPoolExecutor:
    """A pool whose threads have their share of PyTorch's threads."""
    pool, here = ThreadPoolExecutor(LANES, "scoring"), Barrier(LANES)

    def begin() -> None:
        torch.set_num_threads(threads // LANES)
        torch.get_num_threads()  # from now on, this thread ignores what other threads set
        here.wait()  # one call in each thread

    for future in [pool.submit(begin) for _ in range(LANES)]:
        future.result()
    torch.set_num_threads(threads)  # what threads start with that come later
    return pool


def submit(pool: ThreadPoolExecutor | None, function: Callable, *given) -> Future:
    """The result of a function, without gradients if it is computed in the pool."""
    if pool is not None:
        return pool.submit(torch.inference_mode(torch.is_inference_mode_enabled())(torch.no_grad()(function)), *given)
    done = Future()
    done.set_result(function(*given))
    return done
