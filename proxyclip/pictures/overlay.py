"""Class colours over an image."""

import hashlib
import math
from functools import cache

import numpy as np
from PIL import Image

from proxyclip.pictures.legend import PAPER, as_image, empty_figure, font_size, joined, with_caption, with_legend
from proxyclip.vocabulary import split_names

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


NOT_SCORED, GAP, ALPHA = (190, 190, 190), 8, 0.75  # colour of void pixels; pixels between panels; weight of colours
WIDE_GAP = 12  # pixels, between panels in several rows


def panels(image: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray, classes, colours) -> Image.Image:
    """Image | ground truth | prediction, each under its name, above a legend of both maps' classes.

    image: (h, w, 3) uint8. ground_truth, prediction: class indices (H, W), brought to the image's size; negative where
    the ground truth is void, which is grey. colours: (K, 3) of the K classes.
    """
    size = image.shape[:2]
    names = [*(split_names(str(name))[0] for name in classes), "not scored"]
    colours = np.array([*colours, NOT_SCORED], np.uint8)  # (K + 1, 3)
    maps = {
        "ground truth": nearest(np.where(ground_truth < 0, len(classes), ground_truth), size),  # (h, w)
        "prediction": nearest(prediction, size),  # (h, w)
    }
    tinted = {"image": Image.fromarray(smooth(image, display_size(*size)))}
    tinted |= {title: overlay(image, labels, colours, ALPHA) for title, labels in maps.items()}
    text_size = font_size(*tinted["image"].size)
    sheet = joined([with_caption(one, title, PAPER, text_size) for title, one in tinted.items()], below=False, gap=GAP)
    return with_legend(sheet, found_entries(names, colours, maps.values()), text_size)


def comparison(rows: list[dict[str, Image.Image]], names, colours: np.ndarray, maps, text_size: int) -> Image.Image:
    """Rows of images, each under its title, above a legend of the classes in any of the maps (H, W)."""
    captioned = [[with_caption(panel, title, PAPER, text_size) for title, panel in row.items()] for row in rows]
    sheet = joined([joined(row, below=False, gap=WIDE_GAP) for row in captioned], gap=WIDE_GAP)
    return with_legend(sheet, found_entries(names, colours, maps), text_size)


def found_entries(names, colours: np.ndarray, maps) -> list[tuple[str, None, np.ndarray]]:
    """A legend's entries for the classes that occur in any of the maps (H, W), the largest first."""
    counts = sum(np.bincount(labels.ravel(), minlength=len(names)) for labels in maps)  # (K,)
    order = np.argsort(-counts, kind="stable")
    return [(names[index], None, colours[index]) for index in order if counts[index]]


# linear sRGB -> cone responses -> OKLab
TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
FIRST_TIER = 32  # names are spread over this many clearly distinct colours first
SALT = "32975573"  # of the names' hashes; with this one the sky is blue, grass and trees are green, sand is pale yellow


def oklab(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) sRGB in [0, 1] -> (..., 3): lightness 0 to 1, green-red, blue-yellow."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T


@cache
def palette() -> np.ndarray:
    """(P, 3) uint8: every colour is the one farthest from all before it, so that any first few are far apart."""
    steps = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)  # (4096, 3)
    lab = oklab(candidates / 255)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    # Black, white and grey are reserved for borders and for pixels without a class; very dark colours would hide the
    # image, the most saturated ones are unpleasant.
    usable = (lab[:, 0] > 0.42) & (lab[:, 0] < 0.92) & (chroma > 0.07) & (chroma < 0.24)
    candidates, lab = candidates[usable], lab[usable]
    # Lightness counts half: under the colour lies an image with light and shade of its own.
    lab = np.rint(lab * [500, 1000, 1000])  # whole numbers: the same order on every machine
    order = [int(np.argmax(np.hypot(lab[:, 1], lab[:, 2])))]
    distance = np.full(len(lab), np.inf)
    while len(order) < len(lab):
        distance = np.minimum(distance, ((lab - lab[order[-1]]) ** 2).sum(axis=1))
        order.append(int(np.argmax(distance)))
    return candidates[order].astype(np.uint8)


def class_colours(names: list[str]) -> np.ndarray:
    """(len(names), 3) uint8: the colour of each class.

    The first name of a class ("car" of "car; truck") decides. Two names that want the same colour share it out by
    their hashes, so the order of the classes does not matter. Above about 30 classes colours come closer together,
    and they repeat beyond the palette's roughly 2,700.
    """
    colours = palette()
    keys = [hashed(name) for name in names]
    chosen = np.zeros((len(names), 3), np.uint8)
    taken = set()  # places in the palette
    for index in sorted(range(len(names)), key=lambda index: (keys[index], names[index])):
        if len(taken) == len(colours):
            taken.clear()
        tier = FIRST_TIER
        while tier <= len(taken):
            tier *= 2
        tier = min(tier, len(colours))
        place = int.from_bytes(keys[index][:8], "big") % tier
        while place in taken:
            place = (place + 1) % tier
        taken.add(place)
        chosen[index] = colours[place]
    return chosen


def hashed(name: str) -> bytes:
    """Of a class's first name; any text that Python can hold has a hash, lone surrogates included."""
    first = split_names(name)[0].casefold()
    return hashlib.sha256((SALT + first).encode(errors="surrogatepass")).digest()
