"""Images and labels, read and resized in worker processes ahead of the model."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from proxyclip.errors import InputError
from proxyclip.image_io import resize, scaled_size, to_tensor


class Ready(NamedTuple):
    """One image as the model takes it, and its label as it is stored; or why there is none."""

    stem: str
    picture: np.ndarray | None  # (h, w, 3) uint8 RGB, resized
    label: np.ndarray | None  # (H, W) int32, negative where nothing is scored
    problem: str = ""
    tensor: Tensor | None = None  # (3, h, w) float32 in [0, 1]: the picture, for the model


class Reader(Dataset):
    """What the workers do. Public only because it is sent to them."""

    def __init__(self, samples, indices: Sequence[int], short_side: int):
        self.samples, self.indices, self.short_side = samples, indices, short_side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Ready:
        index = self.indices[place]
        try:
            stem, picture, label = self.samples[index]  # (H, W, 3), (H, W)
        except (ValueError, OSError) as error:  # as an exception it would arrive wrapped in the worker's traceback
            return Ready(self.samples.items[index].stem, None, None, str(error))
        if self.short_side:
            picture = resize(picture, scaled_size(*picture.shape[:2], self.short_side))  # (h, w, 3)
        return Ready(stem, picture, label)


def read_ahead(samples, indices: Sequence[int], short_side: int, workers: int) -> Iterator[Ready]:
    """The samples of those indices, in order, two a worker ahead of what is asked for.

    samples: `samples[i]` gives stem, image (H, W, 3) uint8 and label (H, W), and raises ValueError or OSError, with a
    sentence, for one that cannot be read; `samples.items[i].stem` is the name alone. short_side: see `scaled_size`; 0
    leaves images as they are. workers: 0 reads in this process. Close it if you leave it early: that ends the workers.
    Raises InputError if a worker is killed.
    """
    # Arrays go through a pipe: shared memory, which tensors would take, is short in many containers.
    loader = DataLoader(
        Reader(samples, indices, short_side),
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=prepare_worker,
    )
    # `iter` starts the workers, here and not in the thread: a process is best forked where nothing else happens.
    ready = map(with_tensor, iter(loader))
    try:
        yield from one_ahead(ready) if workers else ready
    except RuntimeError as error:
        if not re.search(r"DataLoader worker.*(exited unexpectedly|killed by signal)", str(error)):
            raise
        raise InputError(
            "a process that reads images was ended from outside, for want of memory perhaps; what is counted is kept: "
            "go on with --resume, and with --workers 0 if it happens again"
        ) from error


def as_it_is(item: Ready) -> Ready:
    return item


def with_tensor(ready: Ready) -> Ready:
    """Not done by the workers: it has four times the bytes."""
    return ready if ready.problem else ready._replace(tensor=to_tensor(ready.picture))


def prepare_worker(worker: int) -> None:
    """Once in each worker.

    Ctrl-C reaches all processes of a terminal: a worker that it ends is an error, while one that is told to end is not.

    The memory of one image is kept for the next: to get it anew takes as long as to read the image. glibc returns what
    is freed to the system, until a large block is freed: from then on it keeps as much. Elsewhere this does nothing.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    np.empty(31 << 20, np.uint8)  # 32 MiB is the largest block that counts


def end_with_parent() -> None:
    """Ends this process when its parent is killed: it would wait for ever to hand over the image that it has read."""
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
