"""From the windows' low-resolution scores to full resolution: how much each pixel takes from which score.

Upsampling a window, cutting off its padding, averaging overlapping windows and resizing to the image are all linear and
act on rows and columns separately. The final score map of a query is therefore A_h · M · A_wᵀ, where M contains the
scores of all windows side by side and the two matrices depend on sizes only. If a sigmoid is applied to each upsampled
window first, it is P_h · sigmoid(U_h · M · U_wᵀ) · P_wᵀ. Each row of such a matrix has a few adjacent entries, so it is
built and applied in bands of rows.

Shapes: R rows and C columns of the scores of all windows, Q queries, T entries per row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from proxyclip.bounded_cache import BoundedCache

CACHE_BYTES = 128 * 2**20  # of all sizes together


@dataclass(frozen=True)
class View:
    """The scores of all windows of one view of an image.

    scores: (R, Q, C), the windows side by side in their places. windows: the `SlidingWindows` they were cut with.
    size: height and width of the view in pixels when it was cut. weight: of this view among all.
    window_size: height and width that a window's scores are upsampled to; None: those of the padded window. It matters
        where a sigmoid is applied to the upsampled window.
    """

    scores: Tensor
    windows: object
    size: tuple[int, int]
    weight: float = 1.0
    window_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class WindowScores:
    """All that is known about one image before it is brought to full resolution: one view, or several with weights."""

    views: tuple[View, ...]


class Taps(NamedTuple):
    """A sparse matrix, row by row: entry t of row i has the weight weights[i, t] and stands in column index[i, t]."""

    index: Tensor  # (rows, T) int64
    weights: Tensor  # (rows, T) float64

    def after(self, first: "Taps") -> "Taps":
        """The matrix product self · first."""
        index = first.index[self.index].flatten(1)  # (rows, T * T')
        return Taps(index, (self.weights[..., None] * first.weights[self.index]).flatten(1))


class Band(NamedTuple):
    """What a few rows of the result draw on: rows = weights · sigmoid(upsample · scores[near]), or without a sigmoid
    rows = weights · scores[near]."""

    rows: slice
    near: slice
    weights: Tensor  # (rows, near), or (rows, pixels) behind a sigmoid
    upsample: Tensor | None  # (pixels, near)


_bands = BoundedCache(CACHE_BYTES, lambda made: sum(tensor_bytes(band) for band in made[1]))


def bands(view: View, axis: int, out: int, rows: int, sigmoid: bool) -> tuple[Tensor, list[Band]]:
    """The order in which an axis's scores are neighbours, (R,) or (C,), and the bands of the `out` pixels.

    axis: 0 for rows, 1 for columns. rows: pixels of a band.
    """
    grid = view.scores.shape[2 * axis]
    window = view.window_size and view.window_size[axis]
    device = view.scores.device
    key = (view.windows, view.size[axis], grid, window, out, rows, sigmoid, device)
    return _bands.get(key, lambda: make_bands(view.windows, view.size[axis], grid, window, out, rows, sigmoid, device))


def make_bands(windows, length: int, grid: int, window: int | None, out: int, rows: int, sigmoid: bool, device):
    """See `bands`; length: pixels of the axis when it was cut; grid: scores of all its windows."""
    upsample, place = axis_taps(windows, length, grid, window, out, sigmoid)
    order = score_centres(windows, length, grid).argsort(stable=True)  # (grid,)
    rank = order.argsort()  # (grid,)
    to_pixels = Taps(rank[upsample.index], upsample.weights)
    whole = None if sigmoid else place.after(to_pixels)
    found = []
    for top in range(0, out, rows):
        part = slice(top, min(top + rows, out))
        if not sigmoid:
            near, weights = dense(Taps(whole.index[part], whole.weights[part]))
            found.append(Band(part, near, weights.float().to(device), None))
            continue
        used, local = place.index[part].unique(return_inverse=True)
        weights = torch.zeros(len(local), len(used), dtype=torch.float64)
        weights.scatter_add_(1, local, place.weights[part])  # (rows, pixels)
        near, lifted = dense(Taps(to_pixels.index[used], to_pixels.weights[used]))  # (pixels, near)
        found.append(Band(part, near, weights.float().to(device), lifted.float().to(device)))
    return order.to(device), found


def axis_taps(windows, length: int, grid: int, window: int | None, out: int, sigmoid: bool) -> tuple[Taps, Taps]:
    """Of one axis: from all windows' scores to all windows' pixels, and from those to the `out` pixels."""
    starts, (before, after) = windows.starts(length), windows.padding(length)
    padded = before + windows.side(length) + after
    if not (windows.crop or windows.two_steps or sigmoid or before or after):
        return resize_taps(grid, out), resize_taps(out, out)  # one window, resized once, straight to the result
    window = window or padded
    per_window = grid // len(starts)
    upsample = repeated(resize_taps(per_window, window), len(starts), per_window)
    average = average_taps(windows, length)
    if window != padded:
        average = average.after(repeated(resize_taps(window, padded), len(starts), window))
    return upsample, resize_taps(length, out).after(average)


def average_taps(windows, length: int) -> Taps:
    """The average of the windows over each pixel, their padding left out: (length, windows * padded side)."""
    starts, side, (before, after) = windows.starts(length), windows.side(length), windows.padding(length)
    pixel, last = torch.arange(length)[:, None], len(starts) - 1  # (length, 1)
    # Windows stand at multiples of the stride, all but the last one, which is pulled back to the border.
    regular = pixel // windows.stride - torch.arange(-(-side // windows.stride))  # (length, at most so many cover it)
    chosen = torch.cat([regular.clamp(0, last), torch.full((length, 1), last)], dim=1)  # (length, T)
    inside = pixel - torch.tensor(starts)[chosen]  # (length, T): place of the pixel in each window
    covers = (inside >= 0) & (inside < side)
    covers[:, :-1] &= (regular >= 0) & (regular < last)
    index = chosen * (before + side + after) + (inside.clamp(0, side - 1) + before)
    return Taps(index, covers.double() / covers.sum(1, keepdim=True))


def resize_taps(length: int, out: int) -> Taps:
    """Bilinear resizing of one axis as PyTorch does it without align_corners and antialiasing: (out, length)."""
    if length == out:
        return Taps(torch.arange(out)[:, None], torch.ones(out, 1, dtype=torch.float64))
    position = ((torch.arange(out, dtype=torch.float64) + 0.5) * (length / out) - 0.5).clamp(min=0)
    left = position.long().clamp(max=length - 1)
    right = (left + 1).clamp(max=length - 1)
    weight = position - left
    return Taps(torch.stack([left, right], 1), torch.stack([1 - weight, weight], 1))


def repeated(taps: Taps, count: int, columns: int) -> Taps:
    """The same matrix for each of `count` windows, as blocks along the diagonal."""
    blocks = torch.arange(count)[:, None, None] * columns  # (count, 1, 1)
    return Taps((taps.index + blocks).flatten(0, 1), taps.weights.repeat(count, 1))


def score_centres(windows, length: int, grid: int) -> Tensor:
    """(grid,): the place of each score's centre in the image, in pixels."""
    starts, padding = torch.tensor(windows.starts(length)), windows.padding(length)
    padded, per_window = windows.side(length) + sum(padding), grid // len(starts)
    centres = (torch.arange(per_window) + 0.5) * padded / per_window - padding[0]
    return (starts[:, None] + centres).flatten()


def dense(taps: Taps) -> tuple[slice, Tensor]:
    """The columns between the first and the last that are used, and the matrix (rows, columns) between them."""
    used = taps.index[taps.weights != 0]
    first, last = int(used.min()), int(used.max())
    matrix = torch.zeros(len(taps.index), last - first + 1, dtype=torch.float64)
    matrix.scatter_add_(1, (taps.index - first).clamp(0, last - first), taps.weights)
    return slice(first, last + 1), matrix


def tensor_bytes(band: Band) -> int:
    return sum(part.nbytes for part in (band.weights, band.upsample) if part is not None)
