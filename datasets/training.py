"""Training samples in one endless shuffled order, in which a sample depends on the seed and its position alone.

The number of workers and ranks, and where a run was interrupted, therefore change nothing. Epoch e is a permutation of
all samples; position p is sample p mod n of epoch p // n, and has random numbers of its own for its augmentation.

Shapes: B samples, c the side of a crop.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from datasets.augment import PADDED, Augment, LabelTable
from datasets.folder import is_whole
from datasets.label_map import VOID
from proxyclip.errors import InputError
from proxyclip.evaluation.reading import read_ahead

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
        image, label = map(torch.from_numpy, self.read(position))
        images, labels = to_tensors(image[None], label[None], self.augment.padding)
        return images[0], labels[0]

    def read(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample as `Augment` returns it: (c, c, 3) uint8, (c, c) int16."""
        epoch, index = divmod(position, len(self.samples))
        _, image, label = self.samples[int(permutation(self.seed, epoch, len(self.samples))[index])]
        return self.augment(image, self.table(label), random_numbers(self.seed, AUGMENTATION, position))


def random_numbers(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, number])


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return random_numbers(seed, ORDER, epoch).permutation(count)


@dataclass(frozen=True)
class Batches:
    """`batches[first]` -> the samples from position `first` on, (B, c, c, 3) uint8 and (B, c, c) int16."""

    samples: TrainingSamples
    size: int

    def __getitem__(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = zip(*map(self.samples.read, range(first, first + self.size)), strict=True)
        return np.stack(images), np.stack(labels)


def to_tensors(images: Tensor, labels: Tensor, padding: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """(B, c, c, 3) uint8 and (B, c, c) int16 as `Augment` returns them -> (B, 3, c, c) float32 in [0, 1] and (B, c, c)
    int64, with VOID for padding. On an accelerator this follows the copy, of a quarter of the bytes."""
    padded = labels == PADDED  # (B, c, c)
    images = images.permute(0, 3, 1, 2).float().contiguous().div_(255)  # (B, 3, c, c)
    for channel, value in enumerate(padding):
        images[:, channel].masked_fill_(padded, value)
    return images, labels.long().masked_fill_(padded, VOID)


@contextmanager
def read_batches(
    samples: TrainingSamples,
    *,
    batch: int,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    device: torch.device | None = None,
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Endless batches of one rank on `device` (default: the CPU), for the loop inside the block: images (B, 3, c, c)
    float32 in [0, 1], labels (B, c, c) int64, with B = `batch`.

    start: how many samples all ranks together have used so far. Of the next `batch` * `ranks` samples, rank r gets
    the r-th part: two ranks see what one would see in batches of twice the size. workers: processes that read ahead,
    two batches each; 0 reads in this process. They end with the block.

    Raises InputError for a number out of range or if a worker is killed, and the errors of `samples`.
    """
    for name, value, least in (("batch", batch, 1), ("start", start, 0), ("ranks", ranks, 1), ("workers", workers, 0)):
        if not is_whole(value, least):
            raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if not is_whole(rank, 0, ranks - 1):
        raise InputError(f"rank must be from 0 to {ranks - 1}, not {rank!r}")
    device = device or torch.device("cpu")
    firsts = range(start + rank * batch, sys.maxsize, batch * ranks)  # position of the first sample of each batch
    advice = "rerun with --resume to continue from the last checkpoint"
    with read_ahead(Batches(samples, batch), firsts, workers=workers, device=device, advice=advice) as stream:
        yield (
            to_tensors(*(part.to(device, non_blocking=True) for part in arrays), samples.augment.padding)
            for arrays in stream
        )
