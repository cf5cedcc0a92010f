"""From scores to labels, tile by tile.

Labels are decided in tiles, so nothing of size queries × H × W is ever in memory.

Shapes: Q queries, H × W the label map.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from proxyclip.best_query import Decision, Seen
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
    tile: tuple[int, ...] | None = None,
    confidence: bool = True,
) -> LabelMap:
    """The label map of one image at `size` (H, W), independent of the size that was cut.

    class_of_query: (Q,) integers, in the type that labels get; a class with several queries gets the score of the best
    one. subtract: (Q,), subtracted from the scores of each query. keep: classes whose score maps are returned. tile:
    number of scores and columns per tile, and of queries per block (default: what fits into a processor's cache or
    suits an accelerator). confidence: whether the winning scores are returned; without them, and without a threshold,
    there is no softmax to compute.
    """
    decision = Decision(rule, class_of_query, subtract, tuple(keep), confidence)
    return ruled(partial(decided, scores, size, tile, decision), rule, class_of_query, confidence)


def decided(scores, size, tile, decision: Decision, excluded: Tensor | None) -> LabelMap:
    """The best query at each pixel but the excluded ones, (Q,) bool, before the threshold."""
    decision = replace(decision, excluded=excluded)
    device, queries = scores.views[0].scores.device, scores.views[0].scores.shape[1]
    labels = torch.empty(size, dtype=decision.class_of_query.dtype, device=device)
    confidence = torch.empty(size, device=device) if decision.scored else None
    class_scores = {index: torch.empty(size, device=device) for index in decision.keep}
    waiting: dict[int, Seen] = {}  # by its first row: a tile that some queries have been seen of
    rule = decision.rule
    for place, chosen, part in tiles(scores, size, rule.scale, rule.window_sigmoid, tile):  # (tile_h, q, tile_w)
        seen = decision.see(part, chosen, waiting.pop(place[0].start, None))
        if chosen.stop < queries:
            waiting[place[0].start] = seen
            continue
        labels[place] = decision.class_of_query[seen.query]
        if confidence is not None:
            confidence[place] = decision.result(seen, seen.best)
        for index, found in class_scores.items():
            found[place] = decision.result(seen, seen.classes[index])
    return LabelMap(labels, confidence, class_scores)


@lru_cache(maxsize=16)
def on_device(values: tuple, device: torch.device) -> Tensor:
    """The numbers as a tensor that is copied to an accelerator once.

    Indices of classes get the type that label maps have: uint8 for up to 256 classes, int32 beyond.
    """
    indices = all(isinstance(value, int) for value in values)
    dtype = (torch.uint8 if max(values) < 256 else torch.int32) if indices else torch.float32
    return torch.tensor(values, dtype=dtype, device=device)
