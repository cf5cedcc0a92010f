"""Nine kinds of stuff as procedural textures: (size, size, 3) float32 colours in 0..255, without borders."""

import numpy as np

from datasets.scenes.colours import STUFF_PALETTES
from datasets.scenes.noise import cover, grid, noise, wave


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
