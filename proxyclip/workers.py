"""Worker processes that compute results ahead of the caller, who gets them in order.

Each worker sends its results through a pipe of its own and shares no queue or lock with other workers. If a worker is
killed, even in the middle of a result, the pipe ends and nothing waits for it. (With a queue, as in torch's DataLoader
and in ProcessPoolExecutor, it can leave a lock that is never released, or half a message that the reader waits for.
DataLoader also raises its error from a signal handler, that is anywhere in the caller's code.)
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import cv2
import numpy as np

from proxyclip.errors import InputError, NotFound


def in_order(
    compute: Callable[[Any], Any], items: Sequence, workers: int, finish: Callable[[Any], Any], if_killed: str
) -> Iterator:
    """`finish(compute(item))` of all items, in order, computed two per worker ahead.

    items: an endless range will do. workers: 0 computes in this process; otherwise `compute` must be picklable.
    finish: called in this process, one result ahead, in a thread. if_killed: what to do if a worker is killed, for the
    error message. Closing the iterator early ends the workers.

    Raises InputError and NotFound as `compute` does, and RuntimeError with the worker's traceback for any other
    exception; InputError if a worker is killed.
    """
    if not workers:
        for item in items:
            yield finish(compute(item))
        return
    crew: list[Worker] = []
    killed = (
        f"a data-loading worker was killed, possibly out of memory; {if_killed} (and --workers 0 if it happens again)"
    )
    results = one_ahead(finish(crew[place % workers].receive(killed)) for place in range(len(items)))
    try:
        for first in range(min(workers, len(items))):
            crew.append(Worker(partial(map, compute, items[first::workers])))
        for result in results:  # noqa: UP028 - `yield from` would close `results`, which waits for a worker, first
            yield result
    finally:
        for worker in crew:
            worker.end()
        results.close()
        for worker in crew:
            worker.receiving.close()  # only now: the thread may have been reading


class Worker:
    """A process that sends the results of `produce()` one by one, none of them None.

    produce: picklable, unless the process is forked. start: a start method of multiprocessing, for a process that may
    have workers of its own.
    """

    def __init__(self, produce: Callable[[], Iterable], start: str | None = None):
        self.receiving, sending = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context(start)
        self.process = context.Process(target=work, args=(produce, sending), daemon=start is None)
        with interrupts_blocked():
            self.process.start()
        sending.close()  # the worker has the only one, and its pipe ends when it does

    def receive(self, killed: str):
        """The next result; raises its error, and InputError(killed) if the process was killed."""
        try:
            result = self.receiving.recv()
        except (EOFError, OSError):  # between two results or within one
            raise InputError(killed) from None
        if isinstance(result, Exception):
            raise result
        return result

    def end(self) -> None:
        self.process.kill()  # SIGTERM may have a handler that was inherited
        self.process.join()


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and never reaches a process that is started in it.

    A worker ignores it as well, for systems without this, but only once Python has started there.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # started with the first process, it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(produce: Callable[[], Iterable], sending) -> None:
    """What a worker does: computes one result while the one before is being sent."""
    prepare_worker()
    try:
        for result in one_ahead(iter(produce())):
            sending.send(result)
    except BrokenPipeError:  # nobody waits for the rest
        return
    except (InputError, NotFound) as error:
        sending.send(error)
    except Exception:  # an error in the code: its traceback belongs to the process that has a terminal
        sending.send(RuntimeError(f"a worker process failed:\n{traceback.format_exc()}"))


def prepare_worker() -> None:
    """Ctrl-C reaches every process of a terminal: the main process handles it and ends the workers.

    OpenCV uses no threads of its own, since workers share the cores; 0, because 1 would wait forever for those of the
    process that this one was forked from.

    The memory of one image is reused for the next: to get it anew takes as long as to read the image. glibc returns
    what is freed to the system, until a large block is freed: from then on it keeps as much. Elsewhere this does
    nothing.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    np.empty(31 << 20, np.uint8)  # 32 MiB is the largest block that counts


def end_with_parent() -> None:
    """Ends this process when its parent is killed: it would wait forever to hand over the result that it has."""
    multiprocessing.parent_process().join()
    os._exit(1)


def one_ahead(items: Iterator) -> Iterator:
    """The same items, none of them None; a thread fetches the next one while the caller is busy with this one.

    To receive an image and to turn it into a tensor takes milliseconds, in which an accelerator would wait.
    """
    with ThreadPoolExecutor(1, "reading") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
