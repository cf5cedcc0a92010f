"""Fifteen things as vector drawings: each fills a unit square, u to the right and v down, at any size and rotation.

A painter takes the canvas, the scene's dice, and the thing's first and second colour.
"""

from datasets.scenes import shapes_manmade, shapes_natural
from datasets.scenes.canvas import Canvas
from datasets.scenes.textures import COLOURS, THING_PALETTES

PAINTERS = {
    "sun": shapes_natural.sun,
    "cloud": shapes_natural.cloud,
    "tree": shapes_natural.tree,
    "house": shapes_manmade.house,
    "car": shapes_manmade.car,
    "boat": shapes_manmade.boat,
    "ball": shapes_manmade.ball,
    "fish": shapes_natural.fish,
    "bird": shapes_natural.bird,
    "flower": shapes_natural.flower,
    "mushroom": shapes_natural.mushroom,
    "star": shapes_natural.star,
    "balloon": shapes_manmade.balloon,
    "umbrella": shapes_manmade.umbrella,
    "cup": shapes_manmade.cup,
}


def paint(name, u, v, pixel, dice):
    """Draws the named thing over the points (u, v): colours (h, w, 3), coverage (h, w), the name of its colour."""
    word = dice.pick(THING_PALETTES.get(name, tuple(COLOURS)))
    second = dice.pick([other for other in COLOURS if other != word])
    canvas = Canvas(u, v, pixel)
    PAINTERS[name](canvas, dice, COLOURS[word] + dice.jitter(0, 14), COLOURS[second] + dice.jitter(0, 14))
    return canvas.colours, canvas.coverage, word
