"""A benchmark and a model that are computed, not read: for tests of what lies between the two."""

import time
from typing import NamedTuple

import numpy as np

from proxyclip.images import resize, scaled_size

CLASSES = 5


class Item(NamedTuple):
    stem: str


class Samples:
    """`count` images of differing sizes; those of `broken` cannot be read."""

    def __init__(self, count: int, broken=()):
        self.items = [Item(f"folder/image{index:03d}") for index in range(count)]
        self.broken = broken

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError(f"image{index:03d}.jpg is truncated")
        random = np.random.default_rng(index)
        size = 20 + index % 7, 24 + index % 5
        label = random.integers(-1, CLASSES, size)
        return self.items[index].stem, random.integers(0, 256, (*size, 3), np.uint8), label.astype(np.int32)


def predict(picture, size, _stem=None):
    """Labels (H, W) that depend on every pixel of the picture (3, h, w) and on the size, on nothing else."""
    seed = int(picture.double().sum() * 1000)
    return np.random.default_rng(seed).integers(0, CLASSES, size)


def one_by_one(predict):
    """For `evaluate`: `predict` maps a picture (3, h, w) in [0, 1], the size (H, W) and the stem to labels (H, W)."""
    import torch

    def predict_each(images):
        for image in images:
            picture = image.image.permute(2, 0, 1).float() / 255
            yield image, torch.from_numpy(predict(picture, tuple(image.label.shape), image.stem))

    return predict_each


def resized(image):
    """(H, W, 3) uint8 -> (h, w, 3) uint8, short side 16."""
    return resize(image, scaled_size(*image.shape[:2], 16))


def expected(indices) -> np.ndarray:
    """The matrix (K, K) of those images, counted pixel by pixel."""
    import torch

    samples, matrix = Samples(1000), np.zeros((CLASSES, CLASSES), np.int64)
    for index in indices:
        _, image, label = samples[index]
        small = torch.from_numpy(resized(image))  # (h, w, 3)
        prediction = predict(small.permute(2, 0, 1).float() / 255, label.shape)
        for true, guess in zip(label.ravel(), prediction.ravel(), strict=True):
            if true >= 0:
                matrix[true, guess] += 1
    return matrix


def eventually(condition, seconds: float = 10) -> bool:
    """Whether it holds within some seconds: threads and processes that were told to end take a moment."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
