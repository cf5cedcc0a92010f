"""Fifteen things as vector drawings: each fills a unit square, u to the right and v down, at any size and rotation."""

import numpy as np

from datasets.scenes.canvas import Canvas, around, unit
from datasets.scenes.colours import COLOURS, THING_PALETTES

DARK, LIGHT, GLASS, WOOD, LEAF = (35, 35, 40), (245, 245, 240), (195, 222, 242), (112, 76, 46), (60, 130, 55)


def sun(canvas, dice, colour, second):
    rays, radius, half = dice.integer(8, 13), dice.uniform(0.26, 0.32), 0.27
    for k in range(rays):
        (cx, sx), (c0, s0), (c1, s1) = unit(k / rays), unit((k - half) / rays), unit((k + half) / rays)
        canvas.fill(
            canvas.polygon(
                (0.5 + 0.5 * cx, 0.5 + 0.5 * sx),
                (0.5 + radius * c0, 0.5 + radius * s0),
                (0.5 + radius * c1, 0.5 + radius * s1),
            ),
            colour,
            0.92,
        )
    canvas.fill(canvas.ellipse(0.5, 0.5, radius), colour)
    canvas.fill(canvas.ellipse(0.5, 0.5, radius * 0.72), colour, 1.1)


def cloud(canvas, dice, colour, second):
    canvas.fill(canvas.box(0.14, 0.5, 0.86, 0.74), colour, 0.93)
    for x, radius in ((0.16, 0.15), (0.84, 0.15), (0.33, 0.21), (0.66, 0.2), (0.5, 0.25)):
        y, radius = 0.58 - radius * dice.uniform(0.2, 0.6), radius * dice.uniform(0.95, 1.12)
        canvas.fill(canvas.ellipse(x, y, radius), colour, dice.uniform(0.95, 1.05))


def tree(canvas, dice, colour, second):
    canvas.fill(canvas.polygon((0.44, 0.55), (0.56, 0.55), (0.59, 1.0), (0.41, 1.0)), WOOD, dice.uniform(0.7, 1.2))
    if dice.chance(0.5):
        for top, bottom, half, light in ((0.42, 0.84, 0.46, 0.82), (0.2, 0.6, 0.38, 0.92), (0.0, 0.36, 0.29, 1.02)):
            canvas.fill(canvas.polygon((0.5, top), (0.5 - half, bottom), (0.5 + half, bottom)), colour, light)
    else:
        for x, y in [(0.5, 0.4), *around(6, 0.5, 0.36, 0.21, dice.uniform(0, 1))]:
            canvas.fill(canvas.ellipse(x, y, dice.uniform(0.16, 0.22)), colour, dice.uniform(0.82, 1.1))


def house(canvas, dice, colour, second):
    canvas.fill(canvas.box(0.68, 0.1, 0.8, 0.5), colour, 0.7)
    canvas.fill(canvas.box(0.12, 0.42, 0.88, 1.0), colour)
    canvas.fill(canvas.polygon((0.02, 0.46), (0.5, dice.uniform(0.02, 0.12)), (0.98, 0.46)), second, 0.9)
    glass = dice.pick((GLASS, (250, 230, 140), (60, 60, 70)))
    for left in (0.2, 0.62):
        canvas.fill(canvas.box(left, 0.53, left + 0.18, 0.71), colour, 0.5)
        canvas.fill(canvas.box(left + 0.025, 0.555, left + 0.155, 0.685), glass)
    canvas.fill(canvas.box(0.42, 0.66, 0.58, 1.0), second, 0.65)
    canvas.fill(canvas.ellipse(0.545, 0.84, 0.018), LIGHT)


def car(canvas, dice, colour, second):
    canvas.fill(canvas.polygon((0.16, 0.52), (0.3, 0.24), (0.68, 0.24), (0.86, 0.52)), colour, 0.92)
    glass = GLASS if dice.chance(0.7) else (60, 65, 75)
    canvas.fill(canvas.polygon((0.24, 0.5), (0.34, 0.29), (0.48, 0.29), (0.48, 0.5)), glass)
    canvas.fill(canvas.polygon((0.52, 0.5), (0.52, 0.29), (0.65, 0.29), (0.77, 0.5)), glass)
    canvas.fill(
        canvas.polygon((0.02, 0.54), (0.06, 0.48), (0.92, 0.48), (0.98, 0.56), (0.98, 0.74), (0.02, 0.74)), colour
    )
    canvas.fill(canvas.ellipse(0.95, 0.58, 0.035, 0.045), (255, 240, 170))
    for x in (0.25, 0.75):
        canvas.fill(canvas.ellipse(x, 0.73, 0.13), DARK)
        canvas.fill(canvas.ellipse(x, 0.73, 0.06), (175, 175, 180))


def boat(canvas, dice, colour, second):
    canvas.fill(canvas.box(0.475, 0.02, 0.515, 0.72), WOOD, 0.8)
    sail = second if dice.chance(0.4) else LIGHT
    canvas.fill(canvas.polygon((0.53, 0.03), (0.53, 0.62), (0.94, 0.62)), sail)
    canvas.fill(canvas.polygon((0.46, 0.12), (0.46, 0.62), (0.12, 0.62)), sail, 0.88)
    canvas.fill(canvas.polygon((0.02, 0.67), (0.98, 0.67), (0.82, 0.95), (0.2, 0.95)), colour)
    canvas.fill(canvas.polygon((0.02, 0.67), (0.98, 0.67), (0.955, 0.72), (0.05, 0.72)), colour, 0.75)


def ball(canvas, dice, colour, second):
    disc, style = canvas.ellipse(0.5, 0.5, 0.48), dice.integer(0, 3)
    canvas.fill(disc, colour)
    if style == 0:
        for k in range(3):
            canvas.fill(np.minimum(disc, canvas.wedge(0.5, 0.5, k / 3, k / 3 + 1 / 6)), second)
        canvas.fill(canvas.ellipse(0.5, 0.5, 0.09), LIGHT)
    elif style == 1:
        canvas.fill(np.minimum(disc, canvas.box(0, 0.39, 1, 0.61)), second)
    canvas.fill(canvas.ellipse(0.34, 0.28, 0.09, 0.07), LIGHT)


def fish(canvas, dice, colour, second):
    canvas.fill(canvas.polygon((0.62, 0.5), (1.0, 0.2), (0.92, 0.5), (1.0, 0.8)), colour, 0.8)
    canvas.fill(canvas.polygon((0.28, 0.34), (0.5, 0.08), (0.64, 0.36)), colour, 0.75)
    canvas.fill(canvas.polygon((0.4, 0.66), (0.6, 0.64), (0.58, 0.88)), colour, 0.75)
    body = canvas.ellipse(0.4, 0.5, 0.39, 0.27)
    canvas.fill(body, colour)
    if dice.chance(0.5):
        for left in (0.36, 0.5, 0.64):
            canvas.fill(np.minimum(body, canvas.box(left, 0, left + 0.07, 1)), second)
    canvas.fill(canvas.ellipse(0.18, 0.43, 0.075), LIGHT)
    canvas.fill(canvas.ellipse(0.17, 0.43, 0.04), DARK)


def bird(canvas, dice, colour, second):
    canvas.fill(canvas.polygon((0.6, 0.56), (1.0, 0.4), (0.97, 0.68)), colour, 0.75)
    for x in (0.44, 0.54):
        canvas.fill(canvas.box(x, 0.72, x + 0.035, 0.95), (225, 140, 40))
    canvas.fill(canvas.polygon((0.14, 0.28), (0.0, 0.39), (0.15, 0.43)), (240, 160, 40))
    canvas.fill(canvas.ellipse(0.5, 0.57, 0.32, 0.22), colour)
    canvas.fill(canvas.ellipse(0.27, 0.35, 0.18), colour)
    canvas.fill(
        canvas.polygon((0.36, 0.53), (dice.uniform(0.58, 0.8), dice.uniform(0.04, 0.16)), (0.68, 0.58)), colour, 0.68
    )
    canvas.fill(canvas.ellipse(0.22, 0.31, 0.045), LIGHT)
    canvas.fill(canvas.ellipse(0.215, 0.31, 0.025), (10, 10, 10))


def flower(canvas, dice, colour, second):
    canvas.fill(canvas.box(0.465, 0.5, 0.535, 1.0), LEAF)
    for x, y in ((0.66, 0.8), (0.34, 0.88)):
        canvas.fill(canvas.ellipse(x, y, 0.15, 0.06), LEAF, 1.15)
    for x, y in around(dice.integer(5, 8), 0.5, 0.36, 0.21, dice.uniform(0, 1)):
        canvas.fill(canvas.ellipse(x, y, 0.15), colour, dice.uniform(0.88, 1.06))
    heart = (240, 200, 60) if np.float32(colour)[2] > 90 or np.float32(colour)[1] < 120 else (120, 75, 40)
    canvas.fill(canvas.ellipse(0.5, 0.36, 0.12), heart)


def mushroom(canvas, dice, colour, second):
    canvas.fill(canvas.polygon((0.38, 0.45), (0.62, 0.45), (0.7, 1.0), (0.3, 1.0)), (235, 225, 205))
    cap = np.minimum(canvas.ellipse(0.5, 0.54, 0.5, 0.5), 0.56 - canvas.v)
    canvas.fill(cap, colour)
    dots = LIGHT if min(np.float32(colour)) < 190 else (200, 60, 50)
    for x, y, radius in ((0.27, 0.36, 0.08), (0.52, 0.2, 0.09), (0.75, 0.4, 0.075), (0.5, 0.45, 0.06)):
        canvas.fill(np.minimum(cap, canvas.ellipse(x, y, radius)), dots)


def star(canvas, dice, colour, second):
    tips = around(5, 0.5, 0.52, 0.5, -0.25)
    dents = around(5, 0.5, 0.52, dice.uniform(0.22, 0.27), -0.15)
    for k in range(5):
        canvas.fill(canvas.polygon((0.5, 0.52), dents[k - 1], tips[k]), colour, 1.06)
        canvas.fill(canvas.polygon((0.5, 0.52), tips[k], dents[k]), colour, 0.9)


def balloon(canvas, dice, colour, second):
    canvas.fill(canvas.box(0.48, 0.74, 0.52, 1.0), (90, 90, 90))
    canvas.fill(canvas.polygon((0.5, 0.68), (0.41, 0.8), (0.59, 0.8)), colour, 0.78)
    canvas.fill(canvas.ellipse(0.5, 0.37, 0.33, 0.37), colour)
    canvas.fill(canvas.ellipse(0.38, 0.24, 0.07, 0.1), LIGHT)


def umbrella(canvas, dice, colour, second):
    canvas.fill(canvas.box(0.47, 0.3, 0.53, 0.9), DARK)
    hook = np.minimum(canvas.ellipse(0.42, 0.88, 0.11), -canvas.ellipse(0.42, 0.88, 0.05))
    canvas.fill(np.minimum(hook, canvas.v - 0.88), DARK)
    dome = np.minimum(canvas.ellipse(0.5, 0.52, 0.5, 0.5), 0.54 - canvas.v)
    dome = np.minimum(
        dome, -np.maximum(canvas.ellipse(0.17, 0.55, 0.165, 0.07), canvas.ellipse(0.83, 0.55, 0.165, 0.07))
    )
    dome = np.minimum(dome, -canvas.ellipse(0.5, 0.55, 0.165, 0.07))
    canvas.fill(dome, colour)
    other = second if dice.chance(0.5) else np.float32(colour) * np.float32(0.72)
    canvas.fill(np.minimum(dome, canvas.polygon((0.5, 0.0), (0.335, 0.54), (0.665, 0.54))), other)


def cup(canvas, dice, colour, second):
    handle = np.minimum(canvas.ellipse(0.76, 0.5, 0.23, 0.25), -canvas.ellipse(0.76, 0.5, 0.13, 0.15))
    canvas.fill(handle, colour, 0.82)
    body = canvas.polygon((0.04, 0.16), (0.78, 0.16), (0.7, 0.96), (0.12, 0.96))
    canvas.fill(body, colour)
    if dice.chance(0.5):
        canvas.fill(np.minimum(body, canvas.box(0, 0.46, 1, 0.64)), second)
    canvas.fill(canvas.ellipse(0.41, 0.16, 0.37, 0.09), colour, 1.12)
    canvas.fill(canvas.ellipse(0.41, 0.165, 0.32, 0.065), (92, 56, 36))


PAINTERS = {
    "sun": sun,
    "cloud": cloud,
    "tree": tree,
    "house": house,
    "car": car,
    "boat": boat,
    "ball": ball,
    "fish": fish,
    "bird": bird,
    "flower": flower,
    "mushroom": mushroom,
    "star": star,
    "balloon": balloon,
    "umbrella": umbrella,
    "cup": cup,
}


def paint(name, u, v, pixel, dice):
    """Draws the named thing over the points (u, v): colours (h, w, 3), coverage (h, w), the word for its colour."""
    word = dice.pick(THING_PALETTES.get(name, tuple(COLOURS)))
    second = dice.pick([other for other in COLOURS if other != word])
    canvas = Canvas(u, v, pixel)
    PAINTERS[name](canvas, dice, COLOURS[word] + dice.jitter(0, 14), COLOURS[second] + dice.jitter(0, 14))
    return canvas.colours, canvas.coverage, word
