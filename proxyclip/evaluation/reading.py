"""Samples are read in worker processes ahead of the model, by PyTorch's DataLoader: for evaluation and for training."""

import signal
import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from proxyclip.errors import InputError, NotFound
from proxyclip.runtime import cores_each

Item = TypeVar("Item")
MAX_WORKERS = 8  # of each process, unless the user asks for more


def read_ahead(
    dataset, order: Iterable[int], *, workers: int = 0, device: torch.device | str = "cpu", advice: str = ""
) -> closing[Iterator]:
    """A context with an iterator over `dataset[index]` for each index of `order`; reading ends with the block.

    dataset: picklable; its arrays become tensors, pinned where `device` is a GPU. order: may be endless. workers:
    processes that read, two samples ahead each; 0 reads in a thread, one sample ahead. advice: what to do if a worker
    is killed, for the error message.

    Raises the InputError and NotFound of a sample as they are, and InputError if a worker is killed.
    """
    return closing(one_ahead(samples_of(make_loader(dataset, order, workers, device), advice)))


def one_ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items, none of them None; a thread fetches the next one while the caller is busy with this one.

    DataLoader reports a killed worker by raising from a signal handler, anywhere in the caller's code, but not in the
    code of a thread.
    """
    with closing(items), ThreadPoolExecutor(1, "reading") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def samples_of(loader: DataLoader, advice: str) -> Generator:
    try:
        for sample in loader:
            if isinstance(sample, (InputError, NotFound)):
                raise sample
            yield sample
        return
    except Exception as error:  # no traceback is kept, since it would keep the workers
        killed = isinstance(error, (ConnectionError, EOFError))
        if not killed and not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            if loader.num_workers:
                error.__traceback__ = None  # the text holds that of the worker
            raise
    raise InputError(
        f"a data-loading worker was killed, possibly out of memory; {advice} (and --workers 0 if it happens again)"
    )


def make_loader(dataset, order: Iterable[int], workers: int, device: torch.device | str) -> DataLoader:
    return DataLoader(
        Attempts(dataset),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),  # otherwise it draws from the caller's random numbers
    )


class Attempts(Dataset):
    """The samples, or the error of one that is invalid: DataLoader would write a traceback into its message."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except (InputError, NotFound) as error:
            return error


def prepare_worker(_: int) -> None:
    """Workers share the cores, and Ctrl-C is for the main process, which ends them. OpenCV would wait forever for
    threads of the process that this one was forked from, unless it has none."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None  # of the thread that hands over tensors, when the main process ends meanwhile


def choose_workers(asked: int | None, device: torch.device, per_machine: int) -> int:
    """As many as the user asks for, else by the cores of the machine. per_machine: processes that share it."""
    if asked is not None:
        return asked
    return 1 if device.type == "cpu" else min(MAX_WORKERS, cores_each(per_machine))
