"""From scores to labels, tile by tile.

Labels are decided in tiles, so nothing of size queries × H × W is ever in memory.

Shapes: Q queries, R rows and C columns of the scores of all windows, H × W the label map.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.options import fits
from proxyclip.stitching import Band, View, WindowScores, bands

CPU_TILE, ACCELERATOR_TILE = (1_000_000, 64), (100_000_000, 512)  # scores, columns


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
    views, device = scores.views, scores.views[0].scores.device
    queries = views[0].scores.shape[1]
    tile_elements, tile_columns = tile or (CPU_TILE if device.type == "cpu" else ACCELERATOR_TILE)
    if rule.window_sigmoid:
        tile_elements //= 2  # windows overlap: behind a tile stand several times as many pixels of windows
    tile_rows = max(1, tile_elements // (queries * tile_columns))
    down = [bands(view, 0, size[0], tile_rows, rule.window_sigmoid) for view in views]
    across = [bands(view, 1, size[1], tile_columns, rule.window_sigmoid) for view in views]
    # In the order of their places in the image, the scores that a tile depends on are neighbours: slices, not copies.
    sources = [
        view.scores.float()[rows[0]][:, :, columns[0]] * rule.scale  # (R, Q, C)
        for view, rows, columns in zip(views, down, across, strict=True)
    ]
    labels = torch.empty(size, dtype=torch.int64, device=device)
    confidence = torch.empty(size, device=device)
    class_scores = {index: torch.empty(size, device=device) for index in keep}
    for column_bands in zip(*(found for _, found in across), strict=True):
        strips = [columns(source, band) for source, band in zip(sources, column_bands, strict=True)]
        for row_bands in zip(*(found for _, found in down), strict=True):
            place = row_bands[0].rows, column_bands[0].rows
            parts = zip(views, strips, row_bands, column_bands, strict=True)
            tile = weighted_sum(parts)  # (tile_h, Q, tile_w)
            if subtract is not None:
                tile -= subtract[:, None]
            best, winner = best_query(tile)  # (tile_h, tile_w)
            total = 1.0
            if rule.activation == "softmax":
                total = tile.sub_(best[:, None]).exp_().sum(1)  # (tile_h, tile_w)
                best = 1 / total
            labels[place] = class_of_query[winner]
            confidence[place] = best
            for index, scores_of_class in class_scores.items():
                scores_of_class[place] = tile[:, class_of_query == index].amax(1) / total
    return LabelMap(torch.where(confidence < rule.threshold, 0, labels), confidence, class_scores)


def columns(source: Tensor, band: Band) -> Tensor:
    """(R, Q, C) -> (R, Q, tile_w), or behind a sigmoid (R, Q, pixels of windows)."""
    weights = band.weights if band.upsample is None else band.upsample
    return source[:, :, band.near] @ weights.T


def weighted_sum(parts: Iterable[tuple[View, Tensor, Band, Band]]) -> Tensor:
    """The scores of one tile, (tile_h, Q, tile_w): of all views, by their weights."""
    total = None
    for view, strip, rows, across in parts:
        near = strip[rows.near]  # (near, Q, tile_w or pixels)
        if rows.upsample is not None:
            near = combine(rows.upsample, near).sigmoid_() @ across.weights.T  # (pixels, Q, tile_w)
        tile = combine(rows.weights, near)  # (tile_h, Q, tile_w)
        if view.weight != 1:
            tile *= view.weight
        total = tile if total is None else total + tile
    return total


def combine(weights: Tensor, rows: Tensor) -> Tensor:
    """Weighted sums of rows: (n, m), (m, Q, w) -> (n, Q, w)."""
    return (weights @ rows.flatten(1)).unflatten(1, rows.shape[1:])


def best_query(tile: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """Maximum over the queries of (h, Q, w) and its query, the first on ties; both (h, w).

    PyTorch computes amax ten times as fast as a maximum with its index. The index is therefore found in two steps:
    first the block of queries, then the query within the block.
    """
    best, blocks = torch.stack([part.amax(1) for part in tile.split(block, dim=1)], dim=1).max(1)  # (h, w)
    members = blocks[:, None] * block + torch.arange(block, device=tile.device)[:, None]  # (h, block, w)
    within = tile.gather(1, members.clamp(max=tile.shape[1] - 1)).argmax(1)  # (h, w)
    return best, blocks * block + within


@lru_cache(maxsize=16)
def on_device(values: tuple, device: torch.device) -> Tensor:
    """The numbers as a tensor that is copied to an accelerator once."""
    return torch.tensor(values, device=device)
