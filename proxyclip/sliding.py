"""Sliding windows, and from the windows' low-resolution scores to a label for every pixel.

A model gives `window_scores(crops: (B, 3, c, c)) -> (B, Q, h, w)`. Everything between those scores and the softmax is
linear and acts on rows and columns separately: upsampling to the window, cutting the padding, averaging where windows
overlap, resizing to the picture. So the final score map of a query is exactly A_h · M · A_wᵀ, where the mosaic M holds
all windows' scores side by side and the two stitching matrices depend on sizes only. The picture is decided tile by
tile: nothing of the size queries × H × W is ever held.

Shapes: Q queries, R rows and C columns of the mosaic, H × W the picture, h × w the scores of one window.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.errors import InputError


@dataclass(frozen=True)
class Windows:
    """How a picture is cut, in pixels: side of a window, step, and the multiple that a window is padded to.

    crop = 0 takes the whole picture as one window, without padding.
    """

    crop: int = 336
    stride: int = 112
    multiple: int = 56  # the published code's; it depends on no patch size

    def __post_init__(self):
        if self.crop < 0 or self.stride < 1 or self.multiple < 1:
            raise InputError(f"crop {self.crop} and stride {self.stride} must be positive (crop 0: the whole picture)")
        if self.crop and self.stride > self.crop:
            raise InputError(f"stride {self.stride} above crop {self.crop} would leave gaps; choose stride <= crop")

    def starts(self, length: int) -> list[int]:
        """Where the windows of an axis begin; the last is pulled back so that it ends at the border."""
        if not self.crop:
            return [0]
        count = max(length - self.crop + self.stride - 1, 0) // self.stride + 1
        return [max(min(i * self.stride + self.crop, length) - self.crop, 0) for i in range(count)]

    def count(self, size: tuple[int, int]) -> int:
        """Windows of a picture of that height and width."""
        return len(self.starts(size[0])) * len(self.starts(size[1]))

    def side(self, length: int) -> int:
        """A window's side before padding."""
        return min(self.crop or length, length)

    def padding(self, length: int) -> tuple[int, int]:
        """Pixels added before and after a window of an axis."""
        missing = -self.side(length) % self.multiple if self.crop else 0
        return missing // 2, missing - missing // 2


@dataclass(frozen=True)
class Decision:
    """How scores become labels: softmax of `scale` × score over all queries, the best query's class wins.

    `class_of_query` (Q,) int64; where the winning probability lies below `threshold` the label is 0.
    """

    class_of_query: Tensor
    scale: float = 40.0
    threshold: float = 0.0


@dataclass(frozen=True)
class Mosaic:
    """All windows' scores of one picture in their places (R, Q, C), and the picture's size (H, W) when it was cut."""

    scores: Tensor
    size: tuple[int, int]


def mosaics(
    window_scores: Callable[[Tensor], Tensor],
    pictures: Iterable[Tensor],
    windows: Windows,
    padding_colour: tuple[float, float, float],
    batch_windows: int,
) -> Iterator[Mosaic]:
    """One mosaic a picture, in order; windows of several pictures share a batch where their sizes agree.

    pictures: (3, H, W) RGB in [0, 1], of any sizes, taken only as batches need them.
    """
    batch: list[tuple[Tensor, list[Tensor]]] = []  # crops (3, c_h, c_w) that wait, each with the list its scores go to
    unfinished: deque[tuple[tuple[int, int], list[Tensor]]] = deque()  # pictures' sizes and windows scored so far

    def score() -> None:
        for (_, done), scores in zip(batch, window_scores(torch.stack([crop for crop, _ in batch])), strict=True):
            done.append(scores)  # (Q, h, w)
        batch.clear()

    def finished() -> Iterator[Mosaic]:
        while unfinished and len(unfinished[0][1]) == windows.count(unfinished[0][0]):
            size, done = unfinished.popleft()
            yield assemble(done, size, windows)

    for picture in pictures:
        done: list[Tensor] = []
        unfinished.append(((picture.shape[-2], picture.shape[-1]), done))
        for crop in cut(picture, windows, padding_colour):
            if batch and (len(batch) == batch_windows or batch[0][0].shape != crop.shape):
                score()
                yield from finished()
            batch.append((crop, done))
    if batch:
        score()
    yield from finished()


def cut(picture: Tensor, windows: Windows, padding_colour: tuple[float, float, float]) -> Iterator[Tensor]:
    """The windows (3, c_h, c_w) of a picture (3, H, W), row by row, padded all round with one colour."""
    height, width = picture.shape[-2:]
    side_h, side_w = windows.side(height), windows.side(width)
    (above, below), (left, right) = windows.padding(height), windows.padding(width)
    for top in windows.starts(height):
        for start in windows.starts(width):
            crop = picture[:, top : top + side_h, start : start + side_w]  # (3, side_h, side_w)
            if above or below or left or right:
                colour = picture.new_tensor(padding_colour)[:, None, None]
                padded = colour.expand(3, side_h + above + below, side_w + left + right).clone()  # (3, c_h, c_w)
                padded[:, above : above + side_h, left : left + side_w] = crop
                crop = padded
            yield crop


def assemble(done: list[Tensor], size: tuple[int, int], windows: Windows) -> Mosaic:
    """The windows' scores, each (Q, h, w), side by side."""
    rows = len(windows.starts(size[0]))
    scores = torch.stack(done).unflatten(0, (rows, -1))  # (rows, columns, Q, h, w)
    return Mosaic(scores.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1), size)  # (R, Q, C)


def decide(
    mosaic: Mosaic,
    windows: Windows,
    size: tuple[int, int],
    decision: Decision,
    keep: Iterable[int] = (),
    tile_elements: int = 1_000_000,
    tile_columns: int = 64,
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Labels (H, W) int64, the winning softmax probability (H, W), and the probability maps of the classes `keep`.

    size: of the label map (H, W), whatever size was cut. `tile_elements` bounds the scores held at a time; tiles that
    fit the processor's cache are fastest there, an accelerator wants large ones.
    """
    (height, width), (rows, queries, columns) = size, mosaic.scores.shape
    stitch_h = stitching_matrix(mosaic.size[0], rows, windows, height)  # (H, R)
    stitch_w = stitching_matrix(mosaic.size[1], columns, windows, width)  # (W, C)
    # In the order of their places in the picture, the cells that a tile depends on are neighbours: slices, not copies.
    order_h, order_w = stitch_h.argmax(0).argsort(), stitch_w.argmax(0).argsort()
    stitch_h, stitch_w = stitch_h[:, order_h], stitch_w[:, order_w]
    scores = mosaic.scores.float()[order_h][:, :, order_w] * decision.scale
    class_of_query = decision.class_of_query.to(scores.device)
    labels = torch.empty(size, dtype=torch.int64, device=scores.device)
    confidence = torch.empty(size, device=scores.device)
    kept = {index: torch.empty(size, device=scores.device) for index in keep}
    tile_rows = max(1, tile_elements // (queries * tile_columns))
    for left in range(0, width, tile_columns):
        across = slice(left, left + tile_columns)
        weights, near = band(stitch_w, across, scores.device)
        strip = scores[:, :, near] @ weights.T  # (R, Q, tile_w)
        for top in range(0, height, tile_rows):
            down = slice(top, top + tile_rows)
            weights, near = band(stitch_h, down, scores.device)
            tile = (weights @ strip[near].flatten(1)).unflatten(1, (queries, -1))  # (tile_h, Q, tile_w)
            best, winner = best_query(tile)  # (tile_h, tile_w)
            total = tile.sub_(best[:, None]).exp_().sum(1)  # (tile_h, tile_w)
            labels[down, across] = class_of_query[winner]
            confidence[down, across] = 1 / total
            for index, probability in kept.items():
                probability[down, across] = tile[:, class_of_query == index].amax(1) / total
    return torch.where(confidence < decision.threshold, 0, labels), confidence, kept


def best_query(tile: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """Maximum over the queries of (h, Q, w) and which query has it, the first on ties; both (h, w).

    PyTorch finds a maximum ten times as fast as a maximum with its place. So the place is sought in two steps: which
    block of queries, then which of that block.
    """
    best, blocks = torch.stack([part.amax(1) for part in tile.split(block, dim=1)], dim=1).max(1)  # (h, w)
    members = blocks[:, None] * block + torch.arange(block, device=tile.device)[:, None]  # (h, block, w)
    within = tile.gather(1, members.clamp(max=tile.shape[1] - 1)).argmax(1)  # (h, w)
    return best, blocks * block + within


def band(matrix: Tensor, rows: slice, device: torch.device) -> tuple[Tensor, slice]:
    """Those rows of a stitching matrix between their first and last columns that are not zero, and which those are."""
    columns = matrix[rows].any(0).nonzero()
    near = slice(int(columns[0]), int(columns[-1]) + 1)
    return matrix[rows, near].to(device), near


@lru_cache(maxsize=512)
def stitching_matrix(length: int, cells: int, windows: Windows, out: int) -> Tensor:
    """(out, cells): from the scores of an axis's windows, side by side, to the pixels of the final picture.

    length: pixels of the axis when it was cut; cells: scores of all its windows together; out: pixels wanted.
    """
    starts, side, (before, after) = windows.starts(length), windows.side(length), windows.padding(length)
    per_window = cells // len(starts)
    if not windows.crop:
        return linear_resize(per_window, out).float()
    upsample = linear_resize(per_window, before + side + after)[before : before + side]  # (side, per_window)
    canvas = torch.zeros(length, len(starts), per_window, dtype=torch.float64)  # (length, windows, per_window)
    covered = torch.zeros(length, dtype=torch.float64)  # windows over each pixel
    for index, start in enumerate(starts):
        canvas[start : start + side, index] = upsample
        covered[start : start + side] += 1
    average = canvas.flatten(1) / covered[:, None]  # (length, cells)
    return (linear_resize(length, out) @ average).float()  # (out, cells)


def linear_resize(length: int, out: int) -> Tensor:
    """Bilinear resizing of one axis as a matrix (out, length), float64: what interpolation does to unit vectors."""
    unit = torch.eye(length, dtype=torch.float64)[None]  # (1, length, length)
    return F.interpolate(unit, size=out, mode="linear", align_corners=False)[0].T  # (out, length)
