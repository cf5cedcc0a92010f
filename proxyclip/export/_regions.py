"""The classes of a label map, one at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np


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
