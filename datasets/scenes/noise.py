"""Random surfaces and smooth curves: what textures and borders are made of.

Lengths are in units of 1/128 of the image's side, so that a scene is the same image at every size. Only
operations that IEEE 754 rounds exactly (+ - * / sqrt, comparisons) touch the pixels: the same bytes on every machine.
"""

from functools import lru_cache

import numpy as np

TILE = 1024  # side of a noise tile in samples; it covers two images of 512 pixels

# Each kind of noise is a sum of lattices: (rows, columns, weight) of random values, smoothly interpolated.
NOISE = {
    "cloudy": ((4, 4, 1.0), (8, 8, 0.6), (16, 16, 0.35), (32, 32, 0.2), (64, 64, 0.1)),
    "mottled": ((16, 16, 0.8), (32, 32, 0.7), (64, 64, 0.6), (128, 128, 0.5), (256, 256, 0.5)),
    "grain": ((256, 256, 1.0), (512, 512, 0.5), (1024, 1024, 0.4)),
    "blades": ((24, 128, 0.6), (40, 256, 1.0), (64, 512, 0.7)),
    "fibres": ((128, 10, 0.7), (256, 16, 1.0), (512, 24, 0.6)),
    "ripples": ((32, 8, 1.0), (64, 16, 0.8), (128, 40, 0.6)),
}


@lru_cache
def grid(size):
    """Pixel centres in units: x (1, size) and y (size, 1), float32."""
    centres = ((np.arange(size) + 0.5) * (128 / size)).astype(np.float32)
    return centres[None, :], centres[:, None]


@lru_cache
def _tile(kind, size):
    """Periodic noise, mean about 0 and deviation 1, (2 size, 2 size) float32; at every size the same tile, averaged."""
    raw = np.random.PCG64(1000 + list(NOISE).index(kind))  # NumPy guarantees its stream, `Generator`'s it does not
    tile = np.zeros((TILE, TILE), np.float32)
    for rows, columns, weight in NOISE[kind]:
        lattice = (raw.random_raw(rows * columns) >> np.uint64(44)).astype(np.float32).reshape(rows, columns)
        tile += np.float32(weight) * _stretch(_stretch(lattice / np.float32(2**19) - 1, 0), 1)
    edges = np.arange(2 * size) * TILE // (2 * size)
    whole = (tile * 4096).astype(np.int64)  # whole numbers add up exactly in any order
    sums = np.add.reduceat(np.add.reduceat(whole, edges, axis=0), edges, axis=1)
    counts = np.diff(np.append(edges, TILE))
    tile = sums / (counts[:, None] * counts[None, :])
    return (tile / round(float(tile.std()), 2)).astype(np.float32)


def _stretch(lattice, axis):
    """Periodic smooth interpolation of one axis to TILE samples."""
    count = lattice.shape[axis]
    position = np.arange(TILE) * count
    left = position // TILE
    part = ((position % TILE) / TILE).astype(np.float32)
    part = part * part * (3 - 2 * part)
    part = part[:, None] if axis == 0 else part[None, :]
    first, second = lattice.take(left, axis), lattice.take((left + 1) % count, axis)
    return first + part * (second - first)


def noise(kind, size, dice):
    """A random window of a noise tile, (size, size) float32, deviation about 1."""
    tile = _tile(kind, size)
    top, left = int(dice.uniform(0, 1) * size), int(dice.uniform(0, 1) * size)
    return tile[top : top + size, left : left + size]


def wave(periods):
    """A smooth periodic curve between -1 and 1 (two parabolas per period)."""
    part = periods - np.floor(periods) - np.float32(0.5)
    return 8 * part * (1 - 2 * np.abs(part))


def cover(inside, size):
    """How much of a pixel lies inside an edge: `inside` is the distance to it in units, positive inside."""
    return np.clip(inside * np.float32(size / 128) + np.float32(0.5), 0, 1)
