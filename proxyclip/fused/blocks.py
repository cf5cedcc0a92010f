"""The matrices of `stitching`, for kernels: all blocks of pixels along an axis in one tensor.

Shapes: T entries per pixel, n scores that a block of pixels draws on.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from proxyclip.bounded_cache import BoundedCache
from proxyclip.stitching import CACHE_BYTES, Taps, View, axis_taps, score_centres

LEAST_NEAR = 16  # the smallest side of a matrix product in Triton


class Blocks(NamedTuple):
    """What each block of pixels draws on: pixel i = weights[i] · scores[first of its block + (0 … n)]."""

    order: Tensor  # (grid,): in which the scores are neighbours
    first: Tensor  # (blocks,) int64
    weights: Tensor  # (blocks * pixels, n) float32, zeros behind the last pixel and the last score; n: a power of two

    @property
    def near(self) -> int:
        return self.weights.shape[1]


_blocks = BoundedCache(CACHE_BYTES, lambda made: made.weights.nbytes)


def blocks(view: View, axis: int, out: int, pixels: int) -> Blocks:
    """Blocks of so many of the `out` pixels; axis: 0 for rows, 1 for columns."""
    window = view.window_size and view.window_size[axis]
    given = view.windows, view.size[axis], view.scores.shape[2 * axis], window, out, pixels, view.scores.device
    return _blocks.get(given, lambda: make_blocks(*given))


def make_blocks(
    windows, length: int, grid: int, window: int | None, out: int, pixels: int, device: torch.device
) -> Blocks:
    """length: pixels of the axis when it was cut; grid: scores of all its windows; window: as in `View`, one side."""
    upsample, place = axis_taps(windows, length, grid, window, out, False)
    order = score_centres(windows, length, grid).argsort(stable=True)  # (grid,)
    whole = place.after(Taps(order.argsort()[upsample.index], upsample.weights))
    missing = -out % pixels
    index = torch.cat([whole.index, whole.index[-1:].expand(missing, -1)])  # (blocks * pixels, T)
    weights = torch.cat([whole.weights, whole.weights.new_zeros(missing, whole.weights.shape[1])])
    used = weights != 0
    first = index.where(used, grid).unflatten(0, (-1, pixels)).amin((1, 2))  # (blocks,)
    inside = (index - first.repeat_interleave(pixels)[:, None]).where(used, 0)  # (blocks * pixels, T)
    widest = int(inside.max()) + 1
    matrix = torch.zeros(len(index), max(LEAST_NEAR, 1 << (widest - 1).bit_length()), dtype=torch.float64)
    matrix.scatter_add_(1, inside, weights)
    return Blocks(*(moved(part, device) for part in (order, first, matrix.float())))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, without waiting for what it is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
