"""Exact outlines of the regions of a mask, holes included, as polygons.

A region is a set of pixels that touch each other at an edge or a corner. Polygons without a notion of holes are cut
open: from the leftmost pixel beside a hole, a bridge runs left, through the region, to the next outline, and back.

Two conventions, each with the readers that draw such a polygon as exactly these pixels:

`through_pixels`: the corners are pixels, and drawing includes the line (OpenCV's fillPoly, Pillow's ImageDraw).
`around_pixels`: the corners are corners of pixels: pixel (x, y) covers x to x + 1 and y to y + 1 (pycocotools).
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np


def through_pixels(mask: np.ndarray) -> list[np.ndarray]:
    """One polygon (n, 2) of int32 x, y per region of a mask (h, w), from pixel to pixel.

    n is at least 3: a single pixel and a straight line repeat their last corner.
    """
    polygons = [corners(outline) for outline in outlines(mask)]
    return [polygon if len(polygon) > 2 else polygon[[0, -1, -1]] for polygon in polygons]


def around_pixels(mask: np.ndarray) -> list[np.ndarray]:
    """One polygon (n, 2) of int32 x, y per region of a mask (h, w), along the edges of its pixels; n is at least 4."""
    doubled = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)  # (2h, 2w)
    # The outer ones of a pixel's four parts, 2x and 2x + 1, stand for its edges, x and x + 1.
    return [corners((outline + 1) // 2) for outline in outlines(doubled)]


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The closed loop (n, 2) of pixels along the outline and the holes of each region."""
    found, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    loops = [loop[:, 0] for loop in found]  # (n, 1, 2) -> (n, 2)
    parents = hierarchy[0, :, 3].tolist()  # -1, or for a hole the index of the outer loop of its region
    holes: dict[int, list[np.ndarray]] = {index: [] for index, parent in enumerate(parents) if parent < 0}
    for loop, parent in zip(loops, parents, strict=True):
        if parent >= 0:
            holes[parent].append(loop)
    place = np.empty(mask.shape, np.int32)
    return [cut_open(mask, place, loops[index], inside) if inside else loops[index] for index, inside in holes.items()]


def cut_open(mask: np.ndarray, place: np.ndarray, outer: np.ndarray, holes: list[np.ndarray]) -> np.ndarray:
    """One closed loop (n, 2) along the outline of a region and all its holes.

    place: (h, w) int32, which is overwritten with the places of pixels in the loop.

    Holes are inserted from left to right. The pixel at the left end of a bridge lies beside the outside or beside a
    hole that begins farther left, and is therefore part of the loop already.
    """
    holes = sorted((np.roll(hole, -hole[:, 0].argmin(), axis=0) for hole in holes), key=lambda hole: hole[0, 0])
    points, following = [outer], [*range(1, len(outer)), 0]  # following: the place that comes after each place
    place[outer[:, 1], outer[:, 0]] = range(len(outer))
    for hole in holes:
        x, y = hole[0]
        gaps = np.flatnonzero(mask[y, :x] == 0)
        left = gaps[-1] + 1 if len(gaps) else 0
        first, start = len(following), place[y, left]
        points += [hole, hole[:1], [(left, y)]]
        following += [*range(first + 1, first + len(hole) + 2), following[start]]
        following[start] = first
        place[hole[:, 1], hole[:, 0]] = range(first, first + len(hole))
    order = [0]
    while following[order[-1]]:
        order.append(following[order[-1]])
    return np.concatenate(points)[order]


def corners(loop: np.ndarray) -> np.ndarray:
    """The points of a closed loop (n, 2) at which its direction changes."""
    after = np.diff(np.concatenate((loop, loop[:1])), axis=0)  # the step from each point to the next
    moves = after.any(axis=1)
    if not moves.any():
        return loop[:1]
    loop, after = loop[moves], after[moves]
    before = np.concatenate((after[-1:], after[:-1]))
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return loop[turns | ((before * after).sum(axis=1) < 0)]


class ClassMask(NamedTuple):
    """The pixels of one class, cut out: mask (h, w) uint8, 0 or 1, whose upper left pixel is (left, top)."""

    label: int
    left: int
    top: int
    mask: np.ndarray


def class_masks(labels: np.ndarray) -> Iterator[ClassMask]:
    """The classes in a label map (H, W), in label order, each with its bounding box."""
    for label in np.flatnonzero(np.bincount(labels.ravel())).tolist():
        mask = (labels == label).view(np.uint8)  # (H, W)
        left, top, width, height = cv2.boundingRect(mask)
        yield ClassMask(label, left, top, mask[top : top + height, left : left + width])  # (h, w)


def regions(mask: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Left, top and mask (h, w) of each connected region of a mask, in its bounding box.

    Pixels that touch at an edge or a corner belong together.
    """
    _, numbers = cv2.connectedComponents(mask, connectivity=8)
    outlines, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for outline, (_, _, _, parent) in zip(outlines, hierarchy[0].tolist(), strict=True):
        if parent < 0:  # not a hole
            left, top, width, height = cv2.boundingRect(outline)
            x, y = outline[0, 0]
            yield left, top, numbers[top : top + height, left : left + width] == numbers[y, x]
