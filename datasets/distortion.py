"""Photometric distortion: random brightness, contrast, saturation and hue (Liu et al., SSD, 2016, §2.2).

Each is applied to half of the images. As in the published runs, values are rounded down to 8 bits after each step; only
saturation and hue share one conversion to HSV and back.
"""

import cv2
import numpy as np

Range = tuple[float, float]
IDENTITY = np.arange(256, dtype=np.float32)
HUES = 180  # OpenCV's hues: one is 2 degrees


def distort(
    image: np.ndarray, rng: np.random.Generator, brightness: float, contrast: Range, saturation: Range, hue: int
) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same shape. The parameters are those of `Augment`.

    In this order: brightness, contrast, saturation, hue; half of the time contrast comes last.
    """
    before, after = IDENTITY, IDENTITY  # (256,): what each value becomes
    if by_chance(rng):
        before = rounded_down(before + rng.uniform(-brightness, brightness))
    if by_chance(rng):
        factor = rng.uniform(*contrast)
        if by_chance(rng):
            before = rounded_down(before * factor)
        else:
            after = rounded_down(after * factor)
    image = cv2.LUT(image, before.astype(np.uint8))
    image = distort_hue(image, rng, saturation, hue)
    return cv2.LUT(image, after.astype(np.uint8))


def distort_hue(image: np.ndarray, rng: np.random.Generator, saturation: Range, hue: int) -> np.ndarray:
    tables = np.stack([IDENTITY] * 3, axis=-1)[:, None]  # (256, 1, 3): what each hue, saturation and value becomes
    saturate, turn = by_chance(rng), by_chance(rng)
    if saturate:
        tables[..., 1] = rounded_down(tables[..., 1] * rng.uniform(*saturation))
    if turn:
        tables[..., 0] = (tables[..., 0] + rng.integers(-hue, hue + 1)) % HUES
    if not (saturate or turn):
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # (H, W, 3)
    return cv2.cvtColor(cv2.LUT(hsv, tables.astype(np.uint8)), cv2.COLOR_HSV2RGB)


def rounded_down(values: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(values, 0, 255))


def by_chance(rng: np.random.Generator) -> bool:
    return rng.random() < 0.5
