"""Prefetching: images and labels are read and resized in worker processes ahead of the model.

Each worker sends its samples through a pipe of its own and shares no queue or lock with other workers. If a worker is
killed, even in the middle of an image, the pipe ends and nothing waits for it. (With a queue, as in torch's DataLoader
and in ProcessPoolExecutor, it can leave a lock that is never released, or half a message that the reader waits for.)
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from proxyclip.errors import InputError
from proxyclip.image_io import to_tensor

if TYPE_CHECKING:  # workers that are not forked import this file, and have no use for torch
    from torch import Tensor

Resize = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 -> (h, w, 3) uint8


class Ready(NamedTuple):
    """One image prepared for the model, and its label as stored; or the reason why there is none."""

    stem: str
    image: np.ndarray | None  # (h, w, 3) uint8 RGB, resized
    label: np.ndarray | None  # (H, W) int32, negative where nothing is scored
    problem: str = ""
    tensor: "Tensor | None" = None  # (3, h, w) float32 in [0, 1]: the image, for the model


def read_ahead(samples, indices: Sequence[int], resize: Resize | None, workers: int) -> Iterator[Ready]:
    """The samples with these indices, in order, prefetched two per worker.

    samples: `samples[i]` returns stem, image (H, W, 3) uint8 and label (H, W), and raises ValueError or OSError with a
    message if it cannot be read; `samples.items[i].stem` is the name alone. resize: None leaves images unchanged.
    workers: 0 reads in this process; otherwise `samples` and `resize` must be picklable. Closing the iterator early
    ends the workers. Raises InputError if a worker is killed.
    """
    read = partial(read_one, samples, resize)
    if not workers:
        yield from map(with_tensor, map(read, indices))
        return
    crew: list[Worker] = []
    images = one_ahead(with_tensor(crew[place % workers].receive()) for place in range(len(indices)))
    try:
        for first in range(min(workers, len(indices))):
            crew.append(Worker(read, indices[first::workers]))
        for ready in images:  # noqa: UP028 - `yield from` would close `images`, which waits for a worker, first
            yield ready
    finally:
        for worker in crew:
            worker.end()
        images.close()
        for worker in crew:
            worker.receiving.close()  # only now: the thread may have been reading


def read_one(samples, resize: Resize | None, index: int) -> Ready:
    try:
        stem, image, label = samples[index]  # (H, W, 3), (H, W)
    except (ValueError, OSError) as error:
        return Ready(samples.items[index].stem, None, None, str(error))
    return Ready(stem, resize(image) if resize else image, label)


def with_tensor(ready: Ready) -> Ready:
    """Not done by the workers: the tensor has four times the bytes."""
    return ready if ready.problem else ready._replace(tensor=to_tensor(ready.image))


class Worker:
    """A process that reads the images with some indices, in order, and sends them one by one."""

    def __init__(self, read: Callable[[int], Ready], indices: Sequence[int]):
        self.receiving, sending = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.Process(target=work, args=(read, indices, sending), daemon=True)
        self.process.start()
        sending.close()  # the worker has the only one, and its pipe ends when it does

    def receive(self) -> Ready:
        try:
            ready = self.receiving.recv()
        except (EOFError, OSError):  # between two images or within one
            raise InputError(
                "a data-loading worker was killed, possibly out of memory; no counts are lost: rerun with --resume "
                "(and --workers 0 if it happens again)"
            ) from None
        if isinstance(ready, str):
            raise RuntimeError(f"a data-loading worker failed:\n{ready}")
        return ready

    def end(self) -> None:
        self.process.kill()  # SIGTERM may have a handler that was inherited
        self.process.join()


def work(read: Callable[[int], Ready], indices: Sequence[int], sending) -> None:
    """What a worker does: reads one image while the one before is being sent."""
    prepare_worker()
    try:
        for ready in one_ahead(map(read, indices)):
            sending.send(ready)
    except BrokenPipeError:  # nobody waits for the rest
        return
    except Exception:  # an error in the code: its traceback belongs to the process that has a terminal
        sending.send(traceback.format_exc())


def prepare_worker() -> None:
    """Ctrl-C reaches every process of a terminal: the main process handles it and ends the workers.

    The memory of one image is reused for the next: to get it anew takes as long as to read the image. glibc returns
    what is freed to the system, until a large block is freed: from then on it keeps as much. Elsewhere this does
    nothing.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    np.empty(31 << 20, np.uint8)  # 32 MiB is the largest block that counts


def end_with_parent() -> None:
    """Ends this process when its parent is killed: it would wait forever to hand over the image that it has read."""
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
