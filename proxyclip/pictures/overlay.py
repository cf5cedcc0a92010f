"""What was found, as pictures: colours over the photograph, and heat maps."""

import math

import numpy as np
from PIL import Image, ImageDraw

from proxyclip.pictures.legend import FAINT, INK, PAPER, font_size, joined, letters
from proxyclip.pictures.palette import srgb

LONG_ENOUGH, SHORT_ENOUGH, TOO_LONG = 320, 24, 1600  # pixels; what tiny photographs are enlarged to


def enlargement(height: int, width: int) -> int:
    """Whole-number factor that makes a tiny picture legible; 1 for all others."""
    long, short = max(height, width), min(height, width)
    return max(1, min(max(math.ceil(LONG_ENOUGH / long), math.ceil(SHORT_ENOUGH / short)), TOO_LONG // long))


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """Photograph (H, W, 3) uint8 -> (factor H, factor W, 3) float32, smoothly."""
    height, width = image.shape[:2]
    photograph = Image.fromarray(image).resize((factor * width, factor * height), Image.Resampling.BICUBIC)
    return np.asarray(photograph, np.float32)


def grey(photograph: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1): its brightness."""
    return photograph @ np.array([[0.299], [0.587], [0.114]], np.float32)


def colours_over(image: np.ndarray, labels: np.ndarray, colours: np.ndarray, alpha: float) -> Image.Image:
    """The photograph (H, W, 3) under the colours (Q, 3) of its labels (H, W), with a thin line where two labels meet.

    `alpha` is the weight of the colours, 0 to 1.
    """
    factor = enlargement(*labels.shape)
    photograph = enlarged(image, factor)
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)  # (factor H, factor W)
    # Half of the photograph's own colours is taken out, so that a class looks like its entry in the legend.
    mixed = (1 - alpha) * (photograph + grey(photograph)) / 2 + np.float32(alpha) * colours[labels]
    edge = borders(labels, max(1, round(font_size(*labels.shape) / 14)))
    mixed[edge] = 0.25 * mixed[edge] + 0.75 * 255
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def borders(labels: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels with another label within `thickness` pixels to the right or below."""
    edge = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        edge[:, :-step] |= labels[:, :-step] != labels[:, step:]
        edge[:-step] |= labels[:-step] != labels[step:]
    return edge


def heat_colours() -> np.ndarray:
    """(256, 3) uint8 from dark violet over red to light yellow, in equal steps of lightness."""
    value = np.linspace(0, 1, 256)
    hue, chroma = np.pi * (1.65 + 0.95 * value), 0.04 + 0.15 * np.sin(np.pi * value)
    lab = np.stack([0.18 + 0.77 * value, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    return np.rint(255 * srgb(lab)).astype(np.uint8)


def heatmap(image: np.ndarray, probability: np.ndarray, alpha: float = 0.75) -> Image.Image:
    """A class's probability (H, W) in [0, 1] over the grey photograph (H, W, 3), with its scale beside it."""
    factor = enlargement(*probability.shape)
    photograph = enlarged(image, factor)
    level = np.rint(255 * probability.clip(0, 1)).astype(np.uint8)
    heat = heat_colours()[level.repeat(factor, axis=0).repeat(factor, axis=1)]  # (factor H, factor W, 3)
    mixed = (1 - alpha) * grey(photograph) + np.float32(alpha) * heat
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))

    size = font_size(picture.height, picture.width)
    marks, font = letters(["0", "0.5", "1"], size)
    height = max(picture.height, 8 * size)
    scale = Image.new("RGB", (5 * size, height), PAPER)
    bar = Image.fromarray(heat_colours()[::-1, None]).resize((size, height - 2 * size), Image.Resampling.BILINEAR)
    scale.paste(bar, (size, size))
    draw = ImageDraw.Draw(scale)
    for mark in marks:
        y = size + round((1 - float(mark)) * (height - 2 * size - 1))
        draw.line((2 * size, y, 2 * size + size // 3, y), FAINT, max(1, size // 14))
        draw.text((2 * size + size // 2, y), mark, INK, font, anchor="lm")
    return joined(picture, scale, below=False)
