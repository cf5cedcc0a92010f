"""Man-made things as vector drawings; see `shapes` for the unit square and the arguments."""

import numpy as np

from datasets.scenes.textures import DARK, GLASS, LIGHT, WOOD


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
