"""Class colours over an image."""

import numpy as np
from PIL import Image

from proxyclip.pictures.display import display_size, nearest, smooth
from proxyclip.pictures.legend import font_size

BAND_PIXELS = 1_000_000  # blended at a time, in floating point


def overlay(image: np.ndarray, labels: np.ndarray, colours: np.ndarray, alpha: float) -> Image.Image:
    """The image (H, W, 3) uint8 under the colours (K, 3) of its labels (H, W), with a thin line where two labels meet.

    alpha: weight of the colours, 0 to 1. The result has the size that `display_size` says.
    """
    thickness = max(1, round(font_size(*labels.shape) / 14))
    size = display_size(*labels.shape)
    image, labels = smooth(image, size), nearest(labels, size)  # (h, w, 3), (h, w)
    edge = borders(labels, thickness)
    blended = np.empty_like(image)
    for rows in bands(size):
        # Half of the image's own colours is taken out, so that a class looks like its entry in the legend.
        muted = (image[rows] + brightness(image[rows])) / 2
        mixed = (1 - alpha) * muted + np.float32(alpha) * colours[labels[rows]]
        mixed[edge[rows]] = 0.25 * mixed[edge[rows]] + 0.75 * 255
        blended[rows] = np.rint(mixed)
    return Image.fromarray(blended)


def bands(size: tuple[int, int]):
    """Slices of the rows of an (h, w) image, each of about BAND_PIXELS: memory does not grow with the image."""
    step = max(1, BAND_PIXELS // size[1])
    return (slice(top, top + step) for top in range(0, size[0], step))


def brightness(image: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> (..., 1) float32, 0 to 255."""
    return image @ np.array([[0.299], [0.587], [0.114]], np.float32)


def borders(labels: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels with another label within `thickness` pixels to the right or below."""
    edge = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        edge[:, :-step] |= labels[:, :-step] != labels[:, step:]
        edge[:-step] |= labels[:-step] != labels[step:]
    return edge
