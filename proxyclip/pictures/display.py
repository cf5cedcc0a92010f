"""The display size of an image, and images and label maps at that size."""

import math

import numpy as np
from PIL import Image

LONG_ENOUGH, SHORT_ENOUGH, TOO_LONG = 320, 24, 1600  # pixels of a side, for tiny images
LONGEST = 30_000  # pixels of a side; few programs open more, and text beside a very thin image must fit in memory


def display_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) -> (h, w): tiny images are enlarged by a whole number, very long ones reduced, all others as they are."""
    long, short = max(height, width), min(height, width)
    if long > LONGEST:
        return max(1, round(height * LONGEST / long)), max(1, round(width * LONGEST / long))
    factor = max(1, min(max(math.ceil(LONG_ENOUGH / long), math.ceil(SHORT_ENOUGH / short)), TOO_LONG // long))
    return factor * height, factor * width


def smooth(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Image (H, W, 3) uint8 -> (h, w, 3) uint8, interpolated."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels or probabilities (H, W) -> (h, w), each pixel that of the nearest one."""
    if values.shape == size:
        return values
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(values.shape, size, strict=True))
    return values[rows[:, None], columns]  # (h, w)
