"""Training samples in one endless shuffled order, in which a sample depends on the seed and its position alone.

The number of workers and ranks, and where a run was interrupted, therefore change nothing. Epoch e is a permutation of
all samples; position p is sample p mod n of epoch p // n, and has random numbers of its own for its augmentation.

Shapes: B samples, c the side of a crop.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from datasets.augment import Augment
from datasets.checks import is_whole
from datasets.labels_for_training import LabelTable
from proxyclip.errors import InputError
from proxyclip.workers import in_order

ORDER, AUGMENTATION = range(2)  # what random numbers are for


class TrainingSamples:
    """`samples[position]` -> image (3, c, c) float32 in [0, 1], label (c, c) int64; positions have no end. Picklable.

    samples: a sequence of (stem, image (H, W, 3) uint8, label (H, W) int32), such as `SegmentationData.open` returns.
    Raises InputError or NotFound, with the file, for a sample that cannot be read.
    """

    def __init__(self, samples: Sequence, table: LabelTable, augment: Augment, seed: int):
        if not len(samples):
            raise InputError("there are no samples to train on")
        if not is_whole(seed, 0):
            raise InputError(f"seed must be a whole number of at least 0, not {seed!r}")
        self.samples, self.table, self.augment, self.seed = samples, table, augment, seed

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        images, labels = self.tensors([self.read(position)])
        return images[0], labels[0]

    def read(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample before padding: (h, w, 3) uint8, (h, w) int32; h, w <= c."""
        epoch, place = divmod(position, len(self.samples))
        _, image, label = self.samples[int(permutation(self.seed, epoch, len(self.samples))[place])]
        return self.augment.cut(image, self.table(label), random_numbers(self.seed, AUGMENTATION, position))

    def tensors(self, read: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
        """Samples as `read` returns them -> padded, (B, 3, c, c) float32 and (B, c, c) int64."""
        side = self.augment.crop
        images, labels = np.empty((len(read), 3, side, side), np.float32), np.empty((len(read), side, side), np.int64)
        for cut, *padded in zip(read, images, labels, strict=True):
            self.augment.pad(*cut, *padded)
        return torch.from_numpy(images), torch.from_numpy(labels)


def random_numbers(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, number])


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return random_numbers(seed, ORDER, epoch).permutation(count)


def batches(
    samples: TrainingSamples, *, batch: int, start: int = 0, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of one rank: images (B, 3, c, c) float32 in [0, 1], labels (B, c, c) int64, with B = `batch`.

    start: how many samples all ranks together have used so far. Of the next `batch` * `ranks` samples, rank r gets
    the r-th part: two ranks see what one would see in batches of twice the size. workers: processes that read ahead,
    two batches each; 0 reads in this process. Closing the iterator ends them.

    Raises InputError for a number out of range or if a worker is killed, and the errors of `samples`.
    """
    for name, value, least in (("batch", batch, 1), ("start", start, 0), ("ranks", ranks, 1), ("workers", workers, 0)):
        if not is_whole(value, least):
            raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if not is_whole(rank, 0, ranks - 1):
        raise InputError(f"rank must be from 0 to {ranks - 1}, not {rank!r}")
    firsts = range(start + rank * batch, sys.maxsize, batch * ranks)  # position of the first sample of each batch
    advice = "rerun with --resume to continue from the last checkpoint"
    # Tensors have four times the bytes: they are not made by the workers.
    return in_order(partial(read_batch, samples, batch), firsts, workers, samples.tensors, advice)


def read_batch(samples: TrainingSamples, batch: int, first: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [samples.read(position) for position in range(first, first + batch)]
