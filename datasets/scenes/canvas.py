"""The canvas that things are drawn on: shapes as signed distances, filled from back to front.

A shape is the distance to its edge, positive inside, so shapes combine with minimum and maximum and their edges come
out smooth. Only operations that IEEE 754 rounds exactly touch the pixels: the same bytes on every machine.
"""

import math

import numpy as np


class Canvas:
    """Premultiplied colours (h, w, 3) and coverage (h, w) of one thing, painted from back to front."""

    def __init__(self, u, v, pixel):
        self.u, self.v, self.pixel = u, v, pixel  # (h, w), (h, w), a pixel's side in the thing's own units
        self.colours = np.zeros((*u.shape, 3), np.float32)
        self.coverage = np.zeros(u.shape, np.float32)

    def fill(self, inside, colour, light=1.0):
        """Paints a shape in a colour made lighter (> 1) or darker."""
        share = np.clip(inside / self.pixel + 0.5, 0, 1)
        rest = 1 - share
        colour = np.clip(np.float32(colour) * np.float32(light), 0, 255)
        self.colours = self.colours * rest[..., None] + colour * share[..., None]
        self.coverage = self.coverage * rest + share

    def ellipse(self, x, y, rx, ry=None):
        ry = ry or rx
        across, down = (self.u - x) / rx, (self.v - y) / ry
        return (1 - np.sqrt(across * across + down * down)) * min(rx, ry)

    def box(self, left, top, right, bottom):
        return np.minimum(np.minimum(self.u - left, right - self.u), np.minimum(self.v - top, bottom - self.v))

    def polygon(self, *corners):
        """A convex polygon; corners (u, v) in either direction."""
        area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True))
        turn = 1 if area > 0 else -1
        inside = None
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = math.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0)) * turn
            right, down = (y0 - y1) / length, (x1 - x0) / length
            edge = self.u * right + self.v * down - (x0 * right + y0 * down)
            inside = edge if inside is None else np.minimum(inside, edge)
        return inside

    def wedge(self, x, y, start, end):
        """The part of the plane around (x, y) between two directions, counted in turns, at most half a turn apart."""
        (c0, s0), (c1, s1) = unit(start), unit(end)
        across, down = self.u - x, self.v - y
        return np.minimum(down * c0 - across * s0, across * s1 - down * c1)


def unit(turns):
    """Cosine and sine of an angle in turns; rounded, because libraries differ in the last bit."""
    return round(math.cos(2 * math.pi * turns), 9), round(math.sin(2 * math.pi * turns), 9)


def around(count, x, y, radius, start=0.0):
    """`count` points on a circle."""
    directions = (unit(start + k / count) for k in range(count))
    return [(x + radius * cosine, y + radius * sine) for cosine, sine in directions]
