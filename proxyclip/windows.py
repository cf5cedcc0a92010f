"""How an image is cut into windows, how windows are batched and scored, and how their scores are stitched.

Upsampling a window, cutting off its padding, averaging overlapping windows and resizing to the image are all linear and
act on rows and columns separately. The final score map of a query is therefore A_h · M · A_wᵀ, where M contains the
scores of all windows side by side and the two matrices depend on sizes only. If a sigmoid is applied to each upsampled
window first, it is P_h · sigmoid(U_h · M · U_wᵀ) · P_wᵀ. Each row of such a matrix has a few adjacent entries, so it is
built and applied in bands of rows.

Shapes: Q queries, H × W the image, c_h × c_w a padded window, h × w the scores of one window, R rows and C columns of
the scores of all windows, T entries per row of a sparse matrix.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import torch
from cachetools import LRUCache, cached
from torch import Tensor

from proxyclip.errors import InputError

LARGEST_MULTIPLE = 1024  # every window is padded to it, and its memory grows with the square
CACHE_BYTES = 128 * 2**20  # of the stitching matrices of all sizes together

# Of a batch on a CPU: with more of any of them, a window takes hardly less time, and a padded batch more.
CPU_TOKENS, CPU_WINDOWS, CPU_WORK = 2560, 12, 7 * 10**9  # work: tokens times parameters
ACCELERATOR_TOKENS = 32_768
TOKEN_BYTES = 128 * 1024  # of memory for each token: more than a ViT-H/14 in float32 takes with proxy attention

Result = TypeVar("Result")


# Cutting


@dataclass(frozen=True)
class SlidingWindows:
    """How an image is cut, in pixels: side and stride of the windows, and the multiple that they are padded to.

    crop 0 uses the whole image as one window. min_side: smaller windows are padded to this size, because no model
    accepts less than one patch. two_steps: whether the scores of a whole image are resized to its size when scored and
    from there to that of the labels, like those of windows, instead of to that of the labels at once.
    """

    crop: int
    stride: int
    multiple: int = 1
    min_side: int = 1
    two_steps: bool = False

    def __post_init__(self):
        if self.crop < 0 or self.stride < 1 or self.multiple < 1:
            raise InputError(f"crop {self.crop} and stride {self.stride} must be positive (crop 0: the whole image)")
        if self.multiple > LARGEST_MULTIPLE:
            raise InputError(f"multiple is {self.multiple}; choose at most {LARGEST_MULTIPLE} pixels")
        if self.crop and self.stride > self.crop:
            raise InputError(f"stride {self.stride} above crop {self.crop} would leave gaps; choose stride <= crop")

    def starts(self, length: int) -> list[int]:
        """Start of each window along an axis; the last one is shifted back to end at the border."""
        if not self.crop:
            return [0]
        count = max(length - self.crop + self.stride - 1, 0) // self.stride + 1
        return [max(min(i * self.stride + self.crop, length) - self.crop, 0) for i in range(count)]

    def count(self, size: tuple[int, int]) -> int:
        """The number of windows for an image (H, W)."""
        return len(self.starts(size[0])) * len(self.starts(size[1]))

    def side(self, length: int) -> int:
        """The side of a window before padding."""
        return min(self.crop or length, length)

    def padding(self, length: int) -> tuple[int, int]:
        """Pixels added before and after a window along an axis."""
        side = self.side(length)
        padded = max(side + (-side % self.multiple if self.crop else 0), self.min_side)
        return (padded - side) // 2, padded - side - (padded - side) // 2


def cut(image: Tensor, windows: SlidingWindows, padding_colour: Tensor) -> Iterator[Tensor]:
    """The windows (3, c_h, c_w) of an image (3, H, W), row by row, padded all round with one colour (3,)."""
    height, width = image.shape[-2:]
    side_h, side_w = windows.side(height), windows.side(width)
    (above, below), (left, right) = windows.padding(height), windows.padding(width)
    for top in windows.starts(height):
        for start in windows.starts(width):
            crop = image[:, top : top + side_h, start : start + side_w]  # (3, side_h, side_w)
            if above or below or left or right:
                colour = padding_colour[:, None, None]
                padded = colour.expand(3, side_h + above + below, side_w + left + right).clone()  # (3, c_h, c_w)
                padded[:, above : above + side_h, left : left + side_w] = crop
                crop = padded
            yield crop


# Batches


class Batches:
    """Computes windows in batches of `size`.

    A batch that does not fit in an accelerator's memory halves `size` for this and all later calls, with a warning.
    """

    def __init__(self, size: int):
        self.size = size

    def run(
        self, compute: Callable[[Tensor], Sequence[Result]], crops: Sequence[Tensor], padded: bool = False
    ) -> list[Result]:
        """What `compute` returns for each of the crops (3, c_h, c_w), as part of a batch (B, 3, c_h, c_w).

        padded: whether the last batch is filled up to `size`. Then a crop's result does not depend on the number of
        crops: processors compute batches of different sizes with different rounding, but all crops of a batch alike.
        Raises InputError if a single crop does not fit in memory.
        """
        results: list[Result] = []
        while len(results) < len(crops):
            part = crops[len(results) : len(results) + self.size]
            filling = [part[-1]] * (self.size - len(part)) if padded else []
            try:
                results += [*compute(torch.stack([*part, *filling]))][: len(part)]
                continue
            except torch.OutOfMemoryError:
                failed = len(part) + len(filling)
            self.reduce(failed, part[0])  # outside the except block, which holds on to the memory of the failed batch
        return results

    def reduce(self, failed: int, crop: Tensor) -> None:
        """Halves the size after a batch of `failed` windows did not fit."""
        if failed == 1:
            height, width = crop.shape[-2:]
            raise InputError(
                f"one window of {height}x{width} pixels does not fit in the memory of {crop.device}: choose a smaller "
                "crop, precision bf16 or fp16, or device cpu"
            )
        self.size = failed // 2
        warnings.warn(
            f"{failed} windows do not fit in the memory of {crop.device} together; continuing with {self.size} at a "
            f"time (--batch-windows {self.size} does so from the start)",
            stacklevel=2,
        )


def windows_per_batch(side: int, patch_size: int, device: torch.device, parameters: int) -> int:
    """How many windows of side × side pixels form a batch of a model with so many parameters: on a CPU, several for
    small models only; elsewhere as many as their tokens and free memory allow."""
    tokens = max(1, side // patch_size) ** 2
    if device.type == "cpu":
        return max(1, min(CPU_WINDOWS, CPU_TOKENS // tokens, CPU_WORK // (tokens * max(1, parameters))))
    most = ACCELERATOR_TOKENS
    if device.type == "cuda":
        most = min(most, torch.cuda.mem_get_info(device)[0] // TOKEN_BYTES)
    return max(1, most // tokens)


# Scoring


@dataclass(frozen=True)
class View:
    """The scores of all windows of one view of an image.

    scores: (R, Q, C), the windows side by side. windows: the `SlidingWindows` they were cut with. size: height and
    width of the view in pixels when it was cut. weight: of this view among all. window_size: height and width that a
    window's scores are upsampled to; None: those of the padded window. It matters where a sigmoid is applied to the
    upsampled window. flipped: whether the view is of the image's mirror image.
    """

    scores: Tensor
    windows: SlidingWindows
    size: tuple[int, int]
    weight: float = 1.0
    window_size: tuple[int, int] | None = None
    flipped: bool = False


@dataclass(frozen=True)
class WindowScores:
    """The scores of one image before they are brought to full resolution: one view, or several with weights."""

    views: tuple[View, ...]


class Pending(NamedTuple):
    """An image whose windows are being scored; `scores` is filled in the order of its windows."""

    item: Any
    image: Tensor
    scores: list[Tensor]


def score_images(
    window_scores: Callable[[Tensor], Tensor],
    images: Iterable[tuple[Any, Tensor]],
    *,
    windows: SlidingWindows,
    padding_colour: Tensor,
    batches: Batches,
    window_size: tuple[int, int] | None = None,
) -> Iterator[tuple[Any, Tensor, WindowScores]]:
    """Each image with the scores of its windows, in order; they depend on that image alone.

    Windows of crop × crop pixels fill batches of one size, whatever images they come from; the last batch is padded. An
    image smaller than that, or one that is not cut, has batches of its own.

    window_scores: (B, 3, c_h, c_w) -> (B, Q, h, w). images: pairs of anything that belongs to an image, which comes out
    with it, and the image (3, H, W) RGB in [0, 1]; taken only as batches need them. window_size: of the views.
    """
    shared: list[tuple[Tensor, Pending]] = []  # crops (3, c_h, c_w) that wait for a full batch
    pending: deque[Pending] = deque()

    def score(crops: list[tuple[Tensor, Pending]], padded: bool) -> None:
        results = batches.run(window_scores, [crop for crop, _ in crops], padded)
        for (_, owner), scores in zip(crops, results, strict=True):
            owner.scores.append(scores)  # (Q, h, w)
        crops.clear()

    def finished() -> Iterator[tuple[Any, Tensor, WindowScores]]:
        while pending and len(pending[0].scores) == windows.count(pending[0].image.shape[-2:]):
            item, image, scores = pending.popleft()
            yield item, image, WindowScores((side_by_side(scores, tuple(image.shape[-2:]), windows, window_size),))

    for item, image in images:
        pending.append(Pending(item, image, []))
        whole_crops = 0 < windows.crop <= min(image.shape[-2:])
        crops = shared if whole_crops else []
        for crop in cut(image, windows, padding_colour):
            crops.append((crop, pending[-1]))
            if len(crops) >= batches.size:
                score(crops, whole_crops)
        if crops and not whole_crops:
            score(crops, False)
        if len(pending) > batches.size:
            score(shared, True)  # images of other sizes must not pile up behind windows that wait
        yield from finished()
    score(shared, True)
    yield from finished()


def side_by_side(
    scores: Sequence[Tensor],
    size: tuple[int, int],
    windows: SlidingWindows,
    window_size: tuple[int, int] | None = None,
) -> View:
    """The view of an image of `size` (H, W) from the scores of its windows, each (Q, h, w), row by row."""
    rows = len(windows.starts(size[0]))
    grid = torch.stack([*scores]).unflatten(0, (rows, -1))  # (rows, columns, Q, h, w)
    grid = grid.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1)  # (R, Q, C)
    return View(grid, windows, size, window_size=window_size)


# Stitching


class SparseRows(NamedTuple):
    """A sparse matrix by rows: entry t of row i has the value values[i, t] in column columns[i, t]."""

    columns: Tensor  # (rows, T) int64
    values: Tensor  # (rows, T) float64

    def after(self, first: "SparseRows") -> "SparseRows":
        """The matrix product self · first."""
        columns = first.columns[self.columns].flatten(1)  # (rows, T * T')
        return SparseRows(columns, (self.values[..., None] * first.values[self.columns]).flatten(1))


class Band(NamedTuple):
    """What a few rows of the result are computed from: weights · sigmoid(upsample · scores[source_rows]), or
    weights · scores[source_rows] where there is no sigmoid."""

    rows: slice
    source_rows: slice
    weights: Tensor  # (rows, source rows), or (rows, pixels) after a sigmoid
    upsample: Tensor | None  # (pixels, source rows)


def stitching_bands(view: View, axis: int, out: int, rows: int, sigmoid: bool) -> tuple[Tensor, list[Band]]:
    """The order in which an axis's scores are neighbours, (R,) or (C,), and the bands of the `out` pixels.

    axis: 0 for rows, 1 for columns. rows: pixels of a band.
    """
    return make_bands(
        windows=view.windows,
        length=view.size[axis],
        grid=view.scores.shape[2 * axis],
        window=view.window_size and view.window_size[axis],
        out=out,
        rows=rows,
        sigmoid=sigmoid,
        flipped=view.flipped and axis == 1,
        device=view.scores.device,
    )


def bands_bytes(made: tuple[Tensor, list[Band]]) -> int:
    return sum(part.nbytes for band in made[1] for part in (band.weights, band.upsample) if part is not None)


@cached(LRUCache(CACHE_BYTES, getsizeof=bands_bytes), lock=Lock())
def make_bands(
    *,
    windows: SlidingWindows,
    length: int,
    grid: int,
    window: int | None,
    out: int,
    rows: int,
    sigmoid: bool,
    flipped: bool,
    device: torch.device,
) -> tuple[Tensor, list[Band]]:
    """See `stitching_bands`; length: pixels of the axis when it was cut; grid: scores of all its windows; flipped:
    whether the last of the `out` pixels comes first."""
    upsample, to_image = axis_matrices(windows, length=length, grid=grid, window=window, out=out, sigmoid=sigmoid)
    if flipped:
        to_image = SparseRows(to_image.columns.flip(0), to_image.values.flip(0))
    order = score_centres(windows, length, grid).argsort(stable=True)  # (grid,)
    rank = order.argsort()  # (grid,)
    upsample = SparseRows(rank[upsample.columns], upsample.values)
    whole = None if sigmoid else to_image.after(upsample)
    bands = []
    for top in range(0, out, rows):
        part = slice(top, min(top + rows, out))
        if not sigmoid:
            source_rows, weights = dense(SparseRows(whole.columns[part], whole.values[part]))
            bands.append(Band(part, source_rows, weights.float().to(device), None))
            continue
        used, local = to_image.columns[part].unique(return_inverse=True)
        weights = torch.zeros(len(local), len(used), dtype=torch.float64)
        weights.scatter_add_(1, local, to_image.values[part])  # (rows, pixels)
        source_rows, lifted = dense(SparseRows(upsample.columns[used], upsample.values[used]))  # (pixels, source rows)
        bands.append(Band(part, source_rows, weights.float().to(device), lifted.float().to(device)))
    return order.to(device), bands


def axis_matrices(
    windows: SlidingWindows, *, length: int, grid: int, window: int | None, out: int, sigmoid: bool
) -> tuple[SparseRows, SparseRows]:
    """Of one axis: from all windows' scores to all windows' pixels, and from those to the `out` pixels."""
    starts, (before, after) = windows.starts(length), windows.padding(length)
    padded = before + windows.side(length) + after
    if not (windows.crop or windows.two_steps or sigmoid or before or after):
        return resize_matrix(grid, out), resize_matrix(out, out)  # one window, resized once, straight to the result
    window = window or padded
    per_window = grid // len(starts)
    upsample = block_diagonal(resize_matrix(per_window, window), len(starts), per_window)
    average = average_matrix(windows, length)
    if window != padded:
        average = average.after(block_diagonal(resize_matrix(window, padded), len(starts), window))
    return upsample, resize_matrix(length, out).after(average)


def average_matrix(windows: SlidingWindows, length: int) -> SparseRows:
    """The average of the windows over each pixel, their padding left out: (length, windows * padded side)."""
    starts, side, (before, after) = windows.starts(length), windows.side(length), windows.padding(length)
    pixel, last = torch.arange(length)[:, None], len(starts) - 1  # (length, 1)
    # Windows start at multiples of the stride, all but the last one, which is pulled back to the border.
    regular = pixel // windows.stride - torch.arange(-(-side // windows.stride))  # (length, at most so many cover it)
    chosen = torch.cat([regular.clamp(0, last), torch.full((length, 1), last)], dim=1)  # (length, T)
    inside = pixel - torch.tensor(starts)[chosen]  # (length, T): position of the pixel in each window
    covers = (inside >= 0) & (inside < side)
    covers[:, :-1] &= (regular >= 0) & (regular < last)
    columns = chosen * (before + side + after) + (inside.clamp(0, side - 1) + before)
    return SparseRows(columns, covers.double() / covers.sum(1, keepdim=True))


def resize_matrix(length: int, out: int) -> SparseRows:
    """Bilinear resizing of one axis as PyTorch does it without align_corners and antialiasing: (out, length)."""
    if length == out:
        return SparseRows(torch.arange(out)[:, None], torch.ones(out, 1, dtype=torch.float64))
    position = ((torch.arange(out, dtype=torch.float64) + 0.5) * (length / out) - 0.5).clamp(min=0)
    left = position.long().clamp(max=length - 1)
    right = (left + 1).clamp(max=length - 1)
    weight = position - left
    return SparseRows(torch.stack([left, right], 1), torch.stack([1 - weight, weight], 1))


def block_diagonal(matrix: SparseRows, count: int, columns: int) -> SparseRows:
    """The same matrix, of so many columns, for each of `count` windows."""
    blocks = torch.arange(count)[:, None, None] * columns  # (count, 1, 1)
    return SparseRows((matrix.columns + blocks).flatten(0, 1), matrix.values.repeat(count, 1))


def score_centres(windows: SlidingWindows, length: int, grid: int) -> Tensor:
    """(grid,): the position of each score's centre in the image, in pixels."""
    starts, padding = torch.tensor(windows.starts(length)), windows.padding(length)
    padded, per_window = windows.side(length) + sum(padding), grid // len(starts)
    centres = (torch.arange(per_window) + 0.5) * padded / per_window - padding[0]
    return (starts[:, None] + centres).flatten()


def dense(matrix: SparseRows) -> tuple[slice, Tensor]:
    """The columns between the first and the last that are used, and the matrix (rows, columns) between them."""
    used = matrix.columns[matrix.values != 0]
    first, last = int(used.min()), int(used.max())
    between = torch.zeros(len(matrix.columns), last - first + 1, dtype=torch.float64)
    between.scatter_add_(1, (matrix.columns - first).clamp(0, last - first), matrix.values)
    return slice(first, last + 1), between
