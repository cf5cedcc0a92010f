"""The layout of a scene: which things stand where, painted from back to front."""

import numpy as np

from datasets.scenes import shapes, textures
from datasets.scenes.textures import cover, grid, noise, wave
from datasets.scenes.words import STUFF, THINGS

IN_THE_SKY = ("sun", "cloud", "bird", "balloon", "cloud", "sun", "star")
ON_LAND = ("tree", "house", "car", "ball", "flower", "mushroom", "umbrella", "bird", "tree", "house", "cup")
ON_WATER = ("boat", "fish", "boat", "ball", "bird", "fish")
INDOORS = ("cup", "ball", "flower", "umbrella", "star", "balloon", "car", "mushroom", "fish", "bird", "cup")
GROUNDS = ("grass", "sand", "snow", "road", "sea")


def paint(size, dice):
    """A whole scene: image (size, size, 3) uint8, instances (size, size) uint8, each instance's (class, colour)."""
    painting = Painting(size, dice)
    layout = dice.pick((outdoors, outdoors, outdoors, indoors, patchwork, patchwork))
    places = layout(painting, dice)
    for _ in range(dice.integer(1, 5)):
        pool, top, bottom = dice.pick(places)
        name = dice.pick(THINGS if dice.chance(0.3) else pool)  # many are out of place on purpose
        painting.add_thing(name, *painting.free_place(14, 114, top, bottom))
    return painting.finish(), painting.instances, tuple(painting.parts)


class Painting:
    """A scene while it is painted, from back to front."""

    def __init__(self, size, dice):
        self.size, self.dice, self.parts, self.taken = size, dice, [], []
        self.image = np.zeros((size, size, 3), np.float32)
        self.instances = np.zeros((size, size), np.uint8)

    def add_stuff(self, name, inside):
        """Fills where `inside`, a distance to an edge in units, is positive."""
        texture, colour = textures.paint(name, self.size, self.dice)
        share = np.broadcast_to(cover(inside, self.size), (self.size, self.size))
        self.image += (texture - self.image) * share[..., None]
        self._own(np.s_[:, :], share, name, colour)

    def free_place(self, left, right, top, bottom):
        """Of three random places (x, y) in a box, the one farthest from the things that are there already."""
        places = [(self.dice.uniform(left, right), self.dice.uniform(top, bottom)) for _ in range(3)]
        self.taken.append(max(places, key=self._room))
        return self.taken[-1]

    def _room(self, place):
        """The square of the distance to the nearest thing."""
        gaps = ((place[0] - x, place[1] - y) for x, y in self.taken)
        return min((across * across + down * down for across, down in gaps), default=0)

    def add_thing(self, name, x, y):
        """Draws a thing around (x, y), a place in units."""
        dice, size, pixel = self.dice, self.size, 128 / self.size
        side = 36 + 50 * dice.uniform(0, 1) * dice.uniform(0.45, 1.25)  # median 57 units
        aspect = dice.uniform(0.92, 1.1)
        width, height = side * aspect, side / aspect
        cosine, sine = dice.direction(0.05 if dice.chance(0.8) else 0.17)
        mirror = dice.pick((-1, 1))
        reach = (abs(cosine) + abs(sine)) * max(width, height) / 2
        rows = slice(max(0, int((y - reach) / pixel)), max(0, int((y + reach) / pixel) + 2))
        columns = slice(max(0, int((x - reach) / pixel)), max(0, int((x + reach) / pixel) + 2))
        across, down = grid(size)
        across, down = across[:, columns] - x, down[rows] - y  # (1, w), (h, 1)
        u = (across * cosine + down * sine) * (mirror / width) + 0.5  # (h, w)
        v = (down * cosine - across * sine) / height + 0.5  # (h, w)
        colours, share, colour = shapes.paint(name, u, v, pixel / side, dice)
        colours = colours * (1.1 - dice.uniform(0, 0.3) * np.clip(v, 0, 1))[..., None]
        colours += (noise("mottled", size, dice)[: u.shape[0], : u.shape[1]] * share * dice.uniform(2, 7))[..., None]
        place = np.s_[rows, columns]
        self.image[place] = self.image[place] * (1 - share)[..., None] + np.clip(colours, 0, 255)
        self._own(place, share, name, colour)

    def _own(self, place, share, name, colour):
        self.instances[place][share > 0.5] = len(self.parts)
        self.parts.append((name, colour))

    def finish(self):
        """The whole image in one light, with the grain of one camera: (size, size, 3) uint8."""
        dice, image = self.dice, self.image
        if dice.chance(0.6):
            image = (image - 128) * dice.uniform(0.86, 1.1) + (128 + dice.uniform(-14, 14))
        image = image + (noise("grain", self.size, dice) * dice.uniform(0, 4))[..., None]
        return np.clip(image, 0, 255).astype(np.uint8)


EVERYWHERE = np.full((1, 1), 1e3, np.float32)


def outdoors(painting, dice):
    """Sky over one or two grounds, sometimes with a mountain between."""
    x, y = grid(painting.size)
    horizon = dice.uniform(36, 84)
    painting.add_stuff("sky", EVERYWHERE)
    if dice.chance(0.4):
        ridge = np.float32(0)
        for _ in range(dice.integer(1, 4)):
            ridge = np.maximum(ridge, dice.uniform(24, 50) - np.abs(x - dice.uniform(0, 128)) * dice.uniform(0.4, 1.0))
        painting.add_stuff("mountain", y - (horizon - ridge - noise("cloudy", painting.size, dice)[:1] * 3))
    first, second = dice.shuffled(GROUNDS)[:2]
    painting.add_stuff(first, y - _uneven(horizon, dice.uniform(0, 4), painting.size, dice))
    places = [(IN_THE_SKY, 10, horizon), (ON_WATER if first == "sea" else ON_LAND, horizon, 116)]
    if horizon < 76 and dice.chance(0.35):
        shore = dice.uniform(horizon + 22, 112)
        painting.add_stuff(second, y - _uneven(shore, dice.uniform(0, 6), painting.size, dice))
        places += [(ON_WATER if second == "sea" else ON_LAND, shore, 116)]
    return places


def indoors(painting, dice):
    """A brick wall over a wooden floor."""
    painting.add_stuff("brick wall", EVERYWHERE)
    painting.add_stuff("wooden floor", grid(painting.size)[1] - dice.uniform(52, 96))
    return [(INDOORS, 12, 116)]


def patchwork(painting, dice):
    """One to three kinds of stuff that need not belong together, with slanting borders."""
    x, y = grid(painting.size)
    stuffs = dice.shuffled(STUFF)[: dice.pick((1, 2, 2, 3))]
    painting.add_stuff(stuffs[0], EVERYWHERE)
    for name in stuffs[1:]:
        cosine, sine = dice.direction(0.5)
        bent = noise("cloudy", painting.size, dice) * dice.uniform(0, 4)
        painting.add_stuff(name, (x - 64) * cosine + (y - 64) * sine + bent - dice.uniform(-10, 36))
    return [(THINGS, 12, 116)]


def _uneven(height, swing, size, dice):
    """A wavy line around a height: (1, size)."""
    x, _ = grid(size)
    bumps = noise("cloudy", size, dice)[:1] * (swing * 0.4)
    return height + wave(x * (dice.uniform(0.5, 2.5) / 128) + dice.uniform(0, 1)) * swing + bumps
