"""Resizing on an accelerator, with the bytes that `image_io.resize` gives on the host.

Both libraries of the host compute bilinear resizing in fixed point, so integers on any device can repeat it exactly:

- OpenCV (as mmsegmentation): two neighbours on each axis, weights of 11 bits, bits dropped in three steps.
- Pillow (as detectron2): a triangle as wide as the reduction, weights of 22 bits, rounded to bytes after each axis.
  Which axis comes first depends on the sizes and on the release.

Shapes: H x W the given size, h x w the wanted one, K neighbours on an axis.
"""

import platform
from functools import cache

import numpy as np
import PIL
import torch
from torch import Tensor

from proxyclip import image_io
from proxyclip.bounded_cache import BoundedCache

OPENCV_BITS, PILLOW_BITS = 11, 22
PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2])
TABLES = BoundedCache(max_bytes=32 * 2**20, size_of=lambda table: sum(part.nbytes for part in table))


def resize_on(image: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """(H, W, 3) uint8 -> (h, w, 3) uint8 on the image's device, byte for byte as by `image_io.resize`.

    Equality holds where `matches_host` says so. A repeated size neither copies from the host nor waits for the device.
    For accelerators only: on one core of a CPU the libraries are 3 to 50 times as fast. Unmeasured on GPUs.
    """
    if tuple(image.shape[:2]) == tuple(size):
        return image.clone()
    if not antialias:
        return by_opencv(image, size)
    for axis in (0, 1) if vertical_first(*image.shape[:2], *size, PILLOW) else (1, 0):
        image = by_pillow(image, size[axis], axis)  # (h, W, 3) or (H, w, 3), then (h, w, 3)
    return image


@cache
def matches_host() -> bool:
    """Whether `resize_on` gives the bytes of `image_io.resize` on this machine: known for x86-64 only.

    There, OpenCV gives the same bytes with every set of vector instructions. Its builds for ARM hand some sizes to
    other libraries, which round differently. A few sizes are compared once per process, in case a later release of
    OpenCV or Pillow changes its arithmetic.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    image = np.random.default_rng(0).integers(0, 256, (42, 62, 3), dtype=np.uint8)
    return all(
        np.array_equal(resize_on(torch.from_numpy(image), size, antialias), image_io.resize(image, size, antialias))
        for size in ((67, 99), (31, 46), (21, 31), (10, 53))
        for antialias in (False, True)
    )


def by_opencv(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) -> (h, w, 3), as by OpenCV's INTER_LINEAR."""
    rows, columns = (table(opencv_table, *lengths, image.device) for lengths in zip(image.shape, size, strict=False))
    total = 2  # half of what it is divided by at the end
    for row, row_weight in zip(*rows, strict=True):
        line = sum(
            image[row[:, None], column] * weight[:, None]  # (h, w, 3), int32
            for column, weight in zip(*columns, strict=True)
        )
        total = total + ((line >> 4) * row_weight[:, None, None] >> 16)  # (h, w, 3)
    return (total >> 2).byte()


def by_pillow(image: Tensor, out: int, axis: int) -> Tensor:
    """(H, W, 3) -> (h, W, 3) or (H, w, 3): axis 0 or 1 with the length `out`, as by Pillow's BILINEAR."""
    if image.shape[axis] == out:
        return image
    places, weights = table(pillow_table, image.shape[axis], out, image.device)  # (K, out) each
    total = 1 << (PILLOW_BITS - 1)  # half of what it is divided by at the end
    for place, weight in zip(places, weights, strict=True):
        total = total + image.index_select(axis, place) * weight.view(-1, *[1] * (2 - axis))  # int32
    return (total >> PILLOW_BITS).byte()


def vertical_first(height: int, width: int, new_height: int, new_width: int, release: tuple[int, int]) -> bool:
    """Whether that release of Pillow changes the height before the width."""
    if release >= (13, 0):
        return height - new_height > max(0, 2 * (width - new_width))
    return release >= (12, 2) and new_height < height and height > 100 * width


def table(make, length: int, out: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each new sample of an axis takes its values from, and their weights: (K, out) each, int64 and int32.

    The tables are computed on the host, by `make`, and kept on `device`.
    """

    def copied() -> tuple[Tensor, Tensor]:
        places, weights = make(length, out)
        return (
            torch.from_numpy(places.clip(0, length - 1).astype(np.int64)).to(device),
            torch.from_numpy(weights.astype(np.int32)).to(device),
        )

    return TABLES.get((make, length, out, device), copied)


def opencv_table(length: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Places, which may lie outside the image, and weights of both neighbours: (2, out) each."""
    scale = 1 / (out / length)  # not length / out: rounded as OpenCV does
    position = ((np.arange(out) + 0.5) * scale - 0.5).astype(np.float32)
    left = np.floor(position)
    right_weight = position - left
    weights = np.stack([1 - right_weight, right_weight]) * np.float32(1 << OPENCV_BITS)
    return np.stack([left, left + 1]), np.rint(weights)


def pillow_table(length: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Places, which may lie outside the image with a weight of zero, and weights: (K, out) each."""
    scale = length / out
    reach = max(scale, 1.0)  # half the width of the triangle
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum(centre - reach + 0.5, 0).astype(np.int64)
    end = np.minimum(centre + reach + 0.5, length).astype(np.int64)
    places = first + np.arange((end - first).max())[:, None]  # (K, out)
    weights = np.maximum(1 - np.abs((places - centre + 0.5) * (1 / reach)), 0) * (places < end)
    weights /= weights.cumsum(0)[-1]  # added up in order, as Pillow does
    return places, np.floor(weights * (1 << PILLOW_BITS) + 0.5)
