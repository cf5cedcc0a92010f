"""Sliding windows: cutting images, and scoring the windows of one or several images in batches.

Shapes: Q queries, H × W the image, c_h × c_w a padded window, h × w the scores of one window.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proxyclip.batches import Batches
from proxyclip.errors import InputError
from proxyclip.stitching import View, WindowScores

LARGEST_MULTIPLE = 1024  # every window is padded to it, and its memory grows with the square


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


def score_images(
    window_scores: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],
    windows: SlidingWindows,
    padding_colour: Tensor,
    batches: Batches,
    window_size: tuple[int, int] | None = None,
) -> Iterator[WindowScores]:
    """The scores of each image's windows, in order; they depend on that image alone.

    Windows of crop × crop pixels fill batches of one size, whatever images they come from; the last batch is padded. An
    image smaller than that, or one that is not cut, has batches of its own.

    window_scores: (B, 3, c_h, c_w) -> (B, Q, h, w). images: (3, H, W) RGB in [0, 1], of any sizes, taken only as
    batches need them. window_size: of the views.
    """
    shared: list[tuple[Tensor, list[Tensor]]] = []  # crops (3, c_h, c_w) that wait, each with the list for its scores
    unfinished: deque[tuple[tuple[int, int], list[Tensor]]] = deque()  # images' sizes and windows scored so far

    def score(crops: list[tuple[Tensor, list[Tensor]]], padded: bool) -> None:
        found = batches.run(window_scores, [crop for crop, _ in crops], padded)
        for (_, done), scores in zip(crops, found, strict=True):
            done.append(scores)  # (Q, h, w)
        crops.clear()

    def finished() -> Iterator[WindowScores]:
        while unfinished and len(unfinished[0][1]) == windows.count(unfinished[0][0]):
            size, done = unfinished.popleft()
            yield WindowScores((side_by_side(done, size, windows, window_size),))

    for image in images:
        size, done = (image.shape[-2], image.shape[-1]), []
        unfinished.append((size, done))
        whole_crops = 0 < windows.crop <= min(size)
        crops = shared if whole_crops else []
        for crop in cut(image, windows, padding_colour):
            crops.append((crop, done))
            if len(crops) >= batches.size:
                score(crops, whole_crops)
                yield from finished()
        if crops and not whole_crops:
            score(crops, False)
        if len(unfinished) > batches.size:
            score(shared, True)  # images of other sizes must not pile up behind windows that wait
        yield from finished()
    score(shared, True)
    yield from finished()


def side_by_side(
    done: list[Tensor], size: tuple[int, int], windows: SlidingWindows, window_size: tuple[int, int] | None = None
) -> View:
    """The windows' scores, each (Q, h, w), in their places."""
    rows = len(windows.starts(size[0]))
    scores = torch.stack(done).unflatten(0, (rows, -1))  # (rows, columns, Q, h, w)
    scores = scores.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1)  # (R, Q, C)
    return View(scores, windows, size, window_size=window_size)
