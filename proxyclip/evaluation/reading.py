"""Samples are read in worker processes ahead of the model, by PyTorch's DataLoader: for evaluation and for training."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from proxyclip.errors import InputError, NotFound
from proxyclip.runtime import cores_each

MAX_WORKERS = 8  # of each process, unless the user asks for more


@contextmanager
def read_ahead(dataset, order: Iterable[int], *, workers: int, device: torch.device, advice: str) -> Iterator[Iterator]:
    """An iterator over `dataset[index]` for each index of `order`, read two per worker ahead; its workers end with the
    block, and the loop over the samples belongs inside of it.

    dataset: picklable; its arrays become tensors, pinned where `device` is a GPU. order: may be endless. workers: 0
    reads in this process. advice: what to do if a worker is killed, for the error message.

    Raises the InputError and NotFound of a sample as they are, and InputError if a worker is killed.
    """
    samples = samples_of(make_loader(dataset, order, workers, device))
    killed = False
    try:
        yield samples
    except RuntimeError as error:  # DataLoader raises it from a signal handler, that is anywhere in the loop
        if not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            raise
        killed = True
    finally:
        samples.close()
    if killed:  # outside of the handler: the first error would keep the other workers alive
        raise InputError(
            f"a data-loading worker was killed, possibly out of memory; {advice} (and --workers 0 if it happens again)"
        )


def make_loader(dataset, order: Iterable[int], workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        Attempts(dataset),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),  # otherwise it draws from the caller's random numbers
    )


def samples_of(loader: DataLoader) -> Iterator:
    for sample in loader:
        if isinstance(sample, (InputError, NotFound)):
            raise sample
        yield sample


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
    """Workers share the cores, and Ctrl-C is handled by the main process, which ends them.

    Unless their number is 0, OpenCV would wait forever for threads of the process that this one was forked from."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None  # of the thread that hands over tensors, when the main process ends meanwhile


def choose_workers(asked: int | None, device: torch.device, per_machine: int) -> int:
    """As many as the user asks for, else by the cores of the machine. per_machine: processes that share it."""
    if asked is not None:
        return asked
    return 1 if device.type == "cpu" else min(MAX_WORKERS, cores_each(per_machine))
