"""Images and labels, read and resized in worker processes ahead of the model."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from proxyclip.images import resize, scaled_size


class Ready(NamedTuple):
    """One image as the model takes it, and its label as it is stored; or why there is none."""

    stem: str
    picture: np.ndarray | None  # (h, w, 3) uint8 RGB, resized
    label: np.ndarray | None  # (H, W) int32, negative where nothing is scored
    problem: str = ""


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
    leaves images as they are. workers: 0 reads in this process.
    """
    # Arrays go through a pipe: shared memory, which tensors would take, is short in many containers.
    yield from DataLoader(
        Reader(samples, indices, short_side), batch_size=None, collate_fn=as_it_is, num_workers=workers
    )


def as_it_is(item: Ready) -> Ready:
    return item
