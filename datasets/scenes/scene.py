"""One synthetic scene: from a seed to an image, its ground truth, its instances and a caption."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets.scenes import layouts
from datasets.scenes.canvas import unit
from datasets.scenes.words import CLASSES, caption
from proxyclip.errors import InputError

SIZES = range(32, 513)
SMALLEST = 200  # a part is named in the caption if it covers more than one of so many pixels
# Seeds of each split. Nothing is ever chosen by looking at "test".
SPLITS = {"test": range(500), "tune": range(500, 700), "train": range(1000, 2**31)}


class Dice:
    """Random choices, the same in every version of Python: it guarantees the stream of `random.Random.random` only."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def uniform(self, low, high):
        return low + (high - low) * self.random()

    def integer(self, low, high):
        """low <= result < high."""
        return low + int((high - low) * self.random())

    def chance(self, probability):
        return self.random() < probability

    def pick(self, items):
        return items[int(len(items) * self.random())]

    def shuffled(self, items):
        return [item for _, item in sorted(((self.random(), item) for item in items), key=lambda pair: pair[0])]

    def jitter(self, middle, spread):
        """Three bell-shaped random values, (3,) float32: a change of colour."""
        return np.float32(
            [middle + spread * (self.random() + self.random() + self.random() - 1.5) * 2 for _ in range(3)]
        )

    def direction(self, most):
        """Cosine and sine of a random angle of at most `most` turns to either side."""
        return unit(self.uniform(-most, most))


@dataclass(frozen=True)
class Scene:
    """One synthetic image, H = W = size."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) int64, index into CLASSES
    instances: np.ndarray  # (H, W) uint8, index into parts
    parts: tuple[tuple[str, str], ...]  # (class name, colour name) of each instance, in the order of painting
    caption: str  # names every visible part


def draw(seed, size=128):
    """One scene: image (size, size, 3) uint8 and label (size, size) int64, an index into CLASSES.

    Raises InputError (a ValueError) for a negative seed or a size outside 32..512.
    """
    scene = compose(seed, size)
    return scene.image, scene.label


def compose(seed, size=128):
    """The scene of a seed as a `Scene`; the arguments and errors of `draw`."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed must be a whole number of at least 0, not {seed!r}")
    check_size(size)
    dice = Dice(int(seed))
    image, instances, parts = layouts.paint(int(size), dice)
    numbers = np.array([CLASSES.index(name) for name, _ in parts], np.int64)
    areas = np.bincount(instances.ravel(), minlength=len(parts))
    seen = [parts[k] for k in np.argsort(-areas, kind="stable") if areas[k] * SMALLEST > instances.size]
    return Scene(image, numbers[instances], instances, parts, caption(seen, dice))


def check_size(size):
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size not in SIZES:
        raise InputError(f"size must be a whole number from {SIZES[0]} to {SIZES[-1]} pixels, not {size!r}")


def contact_sheet(count, first_seed, size, columns=8):
    """`count` scenes side by side as one PIL image."""
    check_size(size)
    columns = min(columns, count)
    sheet = Image.new("RGB", (columns * size, -(-count // columns) * size), "white")
    for k in range(count):
        sheet.paste(Image.fromarray(draw(first_seed + k, size)[0]), (k % columns * size, k // columns * size))
    return sheet
