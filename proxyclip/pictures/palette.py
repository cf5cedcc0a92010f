"""A colour for every class name: the same in every image, and distinct within an image.

Distances are measured in OKLab (Björn Ottosson, 2020), where equal distances look equally large.
"""

import hashlib
from functools import cache

import numpy as np

from proxyclip.vocabulary import split_names

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


def srgb(lab: np.ndarray) -> np.ndarray:
    """The way back from `oklab`, cut off at the limits of the screen: (..., 3) -> (..., 3) in [0, 1]."""
    linear = ((lab @ np.linalg.inv(TO_LAB).T) ** 3 @ np.linalg.inv(TO_CONES).T).clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


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
