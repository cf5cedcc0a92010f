"""A probability map as a colour overlay, with its scale."""

import numpy as np
from PIL import Image

from proxyclip.pictures.display import display_size, nearest, smooth
from proxyclip.pictures.figure import as_image, empty_figure
from proxyclip.pictures.legend import font_size, joined
from proxyclip.pictures.overlay import bands, brightness

COLOURS = "inferno"  # of matplotlib: dark violet over red to light yellow, in equal steps of lightness


def heatmap(image: np.ndarray, probability: np.ndarray, alpha: float = 0.75) -> Image.Image:
    """A probability (H, W), 0 to 1, over the image (H, W, 3) uint8 in grey, with its scale to the right.

    alpha: weight of the colours, 0 to 1. What is not a number counts as 0.
    """
    from matplotlib import colormaps

    size = display_size(*probability.shape)
    image = smooth(image, size)  # (h, w, 3)
    level = nearest(quantised(probability, np.uint8), size)  # (h, w)
    blended = np.empty_like(image)
    for rows in bands(size):
        heat = colormaps[COLOURS](level[rows], bytes=True)[..., :3]
        blended[rows] = np.rint((1 - alpha) * brightness(image[rows]) + np.float32(alpha) * heat)
    return joined([Image.fromarray(blended), colour_scale(*size)], below=False)


def quantised(probability: np.ndarray, dtype) -> np.ndarray:
    """(...) in [0, 1] -> the same shape in the range of an unsigned integer type."""
    probability = np.nan_to_num(probability, nan=0.0).clip(0, 1)
    return np.rint(np.iinfo(dtype).max * probability).astype(dtype)


def colour_scale(height: int, width: int) -> Image.Image:
    """The colours from 1 at the top to 0 at the bottom, for a heat map of height × width."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    size = font_size(height, width)
    height = max(height, 8 * size)
    figure = empty_figure(5 * size, height)
    axes = figure.add_axes((0.2, size / height, 0.2, 1 - 2 * size / height))
    scale = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=axes, ticks=[0, 0.5, 1], format="%g")
    scale.outline.set_visible(False)
    axes.tick_params(labelsize=size)
    return as_image(figure)
