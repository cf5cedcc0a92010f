"""From scores to labels, tile by tile.

Labels are decided in tiles, so nothing of size queries × H × W is ever in memory.

Shapes: Q queries, H × W the label map.
"""

import math
from collections.abc import Iterable
from functools import lru_cache, partial

import torch
from torch import Tensor

from proxyclip.label_rule import LabelMap, LabelRule, ruled
from proxyclip.score_tiles import tiles
from proxyclip.stitching import WindowScores


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
    decide = partial(best_of, scores, size, rule, class_of_query, subtract, keep, tile)
    return ruled(decide, rule, class_of_query)


def best_of(scores, size, rule, class_of_query, subtract, keep, tile, excluded: Tensor | None) -> LabelMap:
    """The best query at each pixel but the excluded ones, (Q,) bool; the softmax is over all."""
    device = scores.views[0].scores.device
    labels = torch.empty(size, dtype=torch.int64, device=device)
    confidence = torch.empty(size, device=device)
    class_scores = {index: torch.empty(size, device=device) for index in keep}
    for place, part in tiles(scores, size, rule.scale, rule.window_sigmoid, tile):  # (tile_h, Q, tile_w)
        if subtract is not None:
            part -= subtract[:, None]
        best, winner = best_query(part)  # (tile_h, tile_w)
        top, total = best, 1.0
        if excluded is not None:
            best, winner = best_query(part.masked_fill(excluded[:, None], float("-inf")))  # (tile_h, tile_w)
        if rule.activation == "softmax":
            total = part.sub_(top[:, None]).exp_().sum(1)  # (tile_h, tile_w)
            best = (best - top).exp_() / total
        if excluded is not None:
            part.masked_fill_(excluded[:, None], 0.0 if rule.activation == "softmax" else float("-inf"))
        labels[place] = class_of_query[winner]
        confidence[place] = best
        for index, scores_of_class in class_scores.items():
            scores_of_class[place] = part[:, class_of_query == index].amax(1) / total
    return LabelMap(labels, confidence, class_scores)


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
