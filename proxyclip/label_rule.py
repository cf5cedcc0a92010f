"""From scores to labels, tile by tile.

Labels are decided in tiles, so nothing of size queries × H × W is ever in memory.

Shapes: Q queries, H × W the label map.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.options import fits
from proxyclip.score_tiles import tiles
from proxyclip.stitching import WindowScores


@dataclass(frozen=True)
class LabelRule:
    """How scores become labels.

    scale: factor applied to the scores first (logit scale). window_sigmoid: whether a sigmoid is applied to each window
    at its own resolution, before windows are averaged. subtract: pairs of class name and value, subtracted from the
    scores of the class after that. activation: "softmax" over all queries, or "none". threshold: pixels whose winning
    score (a probability after a softmax) is below it get label 0.
    """

    scale: float = 1.0
    window_sigmoid: bool = False
    subtract: tuple[tuple[str, float], ...] = ()
    activation: Literal["softmax", "none"] = "softmax"
    threshold: float = 0.0

    def __post_init__(self):
        if self.activation not in ("softmax", "none"):
            raise InputError(f'activation is {self.activation!r}; choose "softmax" or "none"')

    def with_threshold(self, threshold: float | None) -> "LabelRule":
        """The same rule with another threshold, if one is given; InputError unless it is a probability."""
        if threshold is None:
            return self
        if not fits(threshold, float) or not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}; it must be a probability between 0 and 1")
        return replace(self, threshold=float(threshold))

    def settings(self) -> dict:
        """Everything but the threshold, which each call may set; ready for JSON."""
        return {
            "logit_scale": self.scale,
            "window_sigmoid": self.window_sigmoid,
            "subtract": dict(self.subtract),
            "activation": self.activation,
        }


class LabelMap(NamedTuple):
    """labels (H, W) int64; confidence (H, W), the winning score; by class index the score maps (H, W) asked for."""

    labels: Tensor
    confidence: Tensor
    class_scores: dict[int, Tensor]


def label_map(
    scores: WindowScores,
    size: tuple[int, int],
    rule: LabelRule,
    class_of_query: Tensor,
    subtract: Tensor | None = None,
    keep: Iterable[int] = (),
    tile: tuple[int, int] | None = None,
) -> LabelMap:
    """The label map of one image at `size` (H, W), independent of the size that was cut.

    class_of_query: (Q,) int64; a class with several queries gets the score of the best one. subtract: (Q,), subtracted
    from the scores of each query. keep: classes whose score maps are returned. tile: number of scores and columns per
    tile (default: what fits into a processor's cache or fills an accelerator).
    """
    device = scores.views[0].scores.device
    labels = torch.empty(size, dtype=torch.int64, device=device)
    confidence = torch.empty(size, device=device)
    class_scores = {index: torch.empty(size, device=device) for index in keep}
    for place, part in tiles(scores, size, rule.scale, rule.window_sigmoid, tile):  # (tile_h, Q, tile_w)
        if subtract is not None:
            part -= subtract[:, None]
        best, winner = best_query(part)  # (tile_h, tile_w)
        total = 1.0
        if rule.activation == "softmax":
            total = part.sub_(best[:, None]).exp_().sum(1)  # (tile_h, tile_w)
            best = 1 / total
        labels[place] = class_of_query[winner]
        confidence[place] = best
        for index, scores_of_class in class_scores.items():
            scores_of_class[place] = part[:, class_of_query == index].amax(1) / total
    return LabelMap(torch.where(confidence < rule.threshold, 0, labels), confidence, class_scores)


def best_query(tile: Tensor, block: int | None = None) -> tuple[Tensor, Tensor]:
    """Maximum over the queries of (h, Q, w) and its query, the first on ties; both (h, w).

    On a CPU, PyTorch computes amax ten times as fast as a maximum with its index. There, the index is found in two
    steps: first the block of queries, then the query within the block; √Q queries form a block unless `block` is given.
    """
    if tile.device.type != "cpu":
        return tile.max(1)
    block = block or math.isqrt(tile.shape[1] - 1) + 1
    of_blocks = torch.stack([part.amax(1) for part in tile.split(block, dim=1)], dim=1)  # (h, blocks, w)
    best = of_blocks.amax(1)  # (h, w)
    blocks = first_equal(of_blocks, best)  # (h, w)
    members = blocks[:, None] * block + torch.arange(block)[:, None]  # (h, block, w)
    within = first_equal(tile.gather(1, members.clamp_(max=tile.shape[1] - 1)), best)  # (h, w)
    return best, blocks * block + within


def first_equal(values: Tensor, best: Tensor) -> Tensor:
    """Place of the first of (h, n, w) that equals (h, w), along n; 0 if none does, as where all are NaN."""
    place = torch.zeros(best.shape, dtype=torch.int64)
    for index in reversed(range(1, values.shape[1])):
        place.masked_fill_(values[:, index] == best, index)
    return place.masked_fill_(values[:, 0] == best, 0)


@lru_cache(maxsize=16)
def on_device(values: tuple, device: torch.device) -> Tensor:
    """The numbers as a tensor that is copied to an accelerator once."""
    return torch.tensor(values, device=device)
