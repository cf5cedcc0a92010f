"""Prefetching: images and labels are read and resized in worker processes ahead of the model."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from proxyclip.images import to_tensor
from proxyclip.workers import in_order

if TYPE_CHECKING:  # workers that are not forked import this file, and have no use for torch
    from torch import Tensor

Stage = Callable[["Ready"], "Ready"]
Resize = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 -> (h, w, 3) uint8


class Ready(NamedTuple):
    """One image prepared for the model, and its label as stored; or the reason why there is none."""

    stem: str
    image: np.ndarray | None  # (h, w, 3) uint8 RGB, resized
    label: np.ndarray | None  # (H, W) int32, negative where nothing is scored
    problem: str = ""
    tensor: "Tensor | None" = None  # the image for the model: (3, h, w) float32 in [0, 1], or as `stage` gives it
    ground_truth: "Tensor | None" = None  # the label for an accelerator, (H, W)


def read_ahead(
    samples, indices: Sequence[int], resize: Resize | None, workers: int, stage: Stage | None = None
) -> Iterator[Ready]:
    """The samples with these indices, in order, prefetched two per worker.

    samples: `samples[i]` returns stem, image (H, W, 3) uint8 and label (H, W), and raises ValueError or OSError with a
    message if it cannot be read; `samples.items[i].stem` is the name alone. resize: None leaves images unchanged.
    workers: 0 reads in this process; otherwise `samples` and `resize` must be picklable. stage: called with each usable
    image in a thread, one image before the model gets it (default: `with_tensor`). Closing the iterator early ends the
    workers. Raises InputError if a worker is killed.
    """
    read = partial(read_one, samples, resize)
    finish = partial(staged, stage or with_tensor)
    return in_order(read, indices, workers, finish, "no counts are lost: rerun with --resume")


def read_one(samples, resize: Resize | None, index: int) -> Ready:
    try:
        stem, image, label = samples[index]  # (H, W, 3), (H, W)
    except (ValueError, OSError) as error:
        return Ready(samples.items[index].stem, None, None, str(error))
    return Ready(stem, resize(image) if resize else image, label)


def staged(stage: Stage, ready: Ready) -> Ready:
    return ready if ready.problem else stage(ready)


def with_tensor(ready: Ready) -> Ready:
    """Not done by the workers: the tensor has four times the bytes."""
    return ready._replace(tensor=to_tensor(ready.image))
