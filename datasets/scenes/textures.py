"""Nine kinds of stuff as procedural textures: (size, size, 3) float32 colours in 0..255, without borders."""

from functools import lru_cache

import numpy as np


def shaded(colour, shade):
    return colour + shade[..., None]  # (size, size, 3)


def blend(image, colour, share):
    return image + (colour - image) * share[..., None]  # (size, size, 3)


def sky(size, colour, dice):
    x, y = grid(size)
    low = np.clip(colour + dice.jitter(28, 20), 0, 255)
    image = colour + (low - colour) * (y / 128)[..., None]
    return shaded(image, noise("cloudy", size, dice) * dice.uniform(1, 5))


def sea(size, colour, dice):
    x, y = grid(size)
    length, swell = dice.uniform(5, 10), dice.uniform(12, 24)
    bent = y + wave(x / dice.uniform(30, 70) + dice.uniform(0, 1)) * 1.5 + noise("cloudy", size, dice) * 2
    return shaded(colour, wave(bent / length) * swell + noise("ripples", size, dice) * 7)


def sand(size, colour, dice):
    x, y = grid(size)
    dunes = wave((y + noise("cloudy", size, dice) * 7) / dice.uniform(28, 44)) * dice.uniform(2, 9)
    return shaded(colour, dunes + noise("grain", size, dice) * dice.uniform(12, 19))


def grass(size, colour, dice):
    return shaded(colour, noise("blades", size, dice) * dice.uniform(17, 27) + noise("cloudy", size, dice) * 5)


def snow(size, colour, dice):
    x, y = grid(size)
    drift = (y + noise("cloudy", size, dice) * 9 + wave(x / dice.uniform(50, 90)) * 4) / dice.uniform(18, 30)
    drift = drift - np.floor(drift)  # each drift is bright at its crest and falls into blue shadow
    flakes = np.maximum(noise("grain", size, dice) - 1.6, 0) * 45
    shadow = np.float32((-34, -26, -10)) * (drift * drift)[..., None]  # (size, size, 3)
    return np.minimum(shaded(colour, flakes) + shadow, 255)


def road(size, colour, dice):
    x, y = grid(size)
    image = shaded(colour, noise("grain", size, dice) * dice.uniform(4, 8))
    paint = np.float32(dice.pick(((235, 235, 230), (235, 200, 60))))
    cosine, sine = dice.direction(0.08 if dice.chance(0.6) else 0.24)
    apart, dash, width = dice.uniform(22, 38), dice.uniform(17, 25), dice.uniform(2.4, 3.8)
    across = (y * cosine + x * sine + dice.uniform(0, apart)) % apart
    along = (x * cosine - y * sine + 256) % dash
    line = cover(width / 2 - np.abs(across - apart / 2), size) * cover(dash * 0.28 - np.abs(along - dash / 2), size)
    return blend(image, paint, line)


def brick_wall(size, colour, dice):
    x, y = grid(size)
    height = dice.uniform(8, 13)
    width = height * dice.uniform(1.8, 2.4)
    row = (y + dice.uniform(0, 40)) / height
    column = (x + dice.uniform(0, 40)) / width + np.floor(row) * np.float32(0.5)
    image = shaded(colour, _tone(row, column) * 13 + noise("grain", size, dice) * 4)
    mortar = np.float32(np.clip(float(colour.sum()) / 3 + dice.pick((-55, 55)), 20, 235))
    gap = np.minimum(_from_border(row) * height, _from_border(column) * width)
    return blend(image, mortar, cover(0.8 - gap, size))


def wooden_floor(size, colour, dice):
    x, y = grid(size)
    height, length = dice.uniform(10, 18), dice.uniform(45, 80)
    row = (y + dice.uniform(0, 40)) / height
    column = x / length + np.floor(row) * np.float32(0.37)
    image = shaded(colour, _tone(row, column) * 11 + noise("fibres", size, dice) * dice.uniform(8, 12))
    gap = np.minimum(_from_border(row) * height, _from_border(column) * length)
    return blend(image, colour * np.float32(0.45), cover(0.6 - gap, size))


def mountain(size, colour, dice):
    x, y = grid(size)
    cosine, sine = dice.direction(0.12)
    bent = noise("cloudy", size, dice) * 8
    left = np.abs((y * cosine + x * (sine + 0.8) + bent) % 28 - 14)
    right = np.abs((y * cosine - x * (sine + 0.8) + bent) % 34 - 17)
    return shaded(colour, (left - right) * 2 + noise("mottled", size, dice) * 7)


def _tone(row, column):
    """A fixed random tone in -1..1 for each brick of a wall or plank of a floor."""
    number = np.floor(row) * 131 + np.floor(column) * 71
    part = number * np.float32(0.61803)
    return 2 * (part - np.floor(part)) - 1


def _from_border(position):
    """Distance to the nearest whole number."""
    part = position - np.floor(position)
    return np.minimum(part, 1 - part)


PAINTERS = {
    "sky": sky,
    "sea": sea,
    "sand": sand,
    "grass": grass,
    "snow": snow,
    "road": road,
    "brick wall": brick_wall,
    "wooden floor": wooden_floor,
    "mountain": mountain,
}


def paint(name, size, dice):
    """A texture of the named stuff: (size, size, 3) float32 and the name of its colour."""
    word, *colour = dice.pick(STUFF_PALETTES[name])
    image = PAINTERS[name](size, np.float32(colour) + dice.jitter(0, 12), dice)
    if name != "sky" and dice.chance(0.3):  # lighter towards the viewer
        image = image * (0.85 + 0.3 * grid(size)[1] / 128)[..., None]
    return image, word


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


COLOURS = {
    "red": (205, 40, 40),
    "orange": (240, 135, 30),
    "yellow": (240, 215, 50),
    "green": (60, 160, 60),
    "blue": (50, 95, 210),
    "purple": (130, 60, 170),
    "pink": (240, 140, 180),
    "brown": (125, 80, 45),
    "black": (35, 35, 38),
    "white": (240, 240, 240),
    "gray": (135, 135, 140),
}
COLOUR_SYNONYMS = {"gray": ("gray", "grey"), "purple": ("purple", "violet")}

# The colours of each kind of stuff: (colour name, red, green, blue).
STUFF_PALETTES = {
    "sky": (
        ("blue", 110, 170, 235),
        ("blue", 70, 120, 210),
        ("gray", 165, 170, 178),
        ("orange", 240, 165, 95),
        ("pink", 235, 165, 185),
        ("black", 25, 30, 60),
        ("purple", 140, 110, 180),
    ),
    "sea": (
        ("blue", 40, 90, 160),
        ("green", 45, 130, 120),
        ("gray", 110, 125, 135),
        ("blue", 20, 50, 100),
        ("black", 30, 35, 50),
        ("purple", 95, 75, 140),
    ),
    "sand": (
        ("yellow", 225, 200, 140),
        ("brown", 185, 145, 95),
        ("white", 235, 225, 205),
        ("gray", 165, 155, 140),
        ("orange", 215, 150, 85),
        ("pink", 225, 165, 160),
    ),
    "grass": (
        ("green", 75, 145, 55),
        ("green", 45, 105, 45),
        ("yellow", 180, 170, 80),
        ("brown", 135, 110, 65),
        ("green", 120, 175, 80),
    ),
    "snow": (
        ("white", 235, 238, 245),
        ("white", 215, 225, 240),
        ("blue", 180, 200, 230),
        ("gray", 190, 192, 198),
        ("pink", 235, 210, 215),
    ),
    "road": (("gray", 105, 105, 110), ("black", 60, 60, 65), ("gray", 145, 143, 140), ("brown", 130, 110, 95)),
    "brick wall": (
        ("red", 165, 75, 60),
        ("gray", 140, 138, 135),
        ("white", 220, 215, 205),
        ("brown", 130, 95, 70),
        ("yellow", 205, 175, 110),
        ("blue", 95, 120, 165),
    ),
    "wooden floor": (
        ("brown", 140, 95, 55),
        ("yellow", 205, 165, 105),
        ("gray", 150, 140, 130),
        ("red", 150, 75, 50),
        ("black", 75, 55, 45),
    ),
    "mountain": (
        ("gray", 120, 120, 125),
        ("brown", 125, 100, 80),
        ("blue", 95, 115, 155),
        ("purple", 115, 95, 140),
        ("green", 80, 110, 80),
    ),
}

# The colours of things that do not come in every colour.
THING_PALETTES = {
    "sun": ("yellow", "orange", "red", "white"),
    "cloud": ("white", "gray", "pink", "black"),
    "tree": ("green", "green", "orange", "yellow", "pink", "red"),
    "mushroom": ("red", "brown", "orange", "white", "purple", "yellow"),
    "bird": ("red", "blue", "black", "white", "yellow", "brown", "gray"),
}

# Parts of things that keep their colour.
DARK, LIGHT, GLASS, WOOD, LEAF = (35, 35, 40), (245, 245, 240), (195, 222, 242), (112, 76, 46), (60, 130, 55)
