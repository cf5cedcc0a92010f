"""Natural things as vector drawings; see `shapes` for the unit square and the arguments."""

import numpy as np

from datasets.scenes.canvas import around, unit
from datasets.scenes.textures import DARK, LEAF, LIGHT, WOOD


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
