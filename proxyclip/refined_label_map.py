"""From refined score maps to labels, in blocks of queries.

Shapes: Q queries, q queries of a block, H × W the label map.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from proxyclip.best_query import Decision
from proxyclip.label_rule import LabelMap, LabelRule, ruled
from proxyclip.refine._refinement import Maps
from proxyclip.score_tiles import tiles
from proxyclip.stitching import WindowScores

BLOCK = 16_000_000  # scores of a block of queries


def refined_label_map(
    scores: WindowScores,
    size: tuple[int, int],
    rule: LabelRule,
    class_of_query: Tensor,
    refine: Callable[[Maps], Maps],
    subtract: Tensor | None = None,
    keep: Iterable[int] = (),
    block: int = BLOCK,
    confidence: bool = True,
) -> LabelMap:
    """The label map of one image from refined score maps; the arguments are those of `label_map`.

    refine: the maps that labels are decided by, from those that the model gives. They are refined before the scale is
    applied, or after the sigmoid of the windows. block: scores per block of queries.
    """
    queries, device = scores.views[0].scores.shape[1], scores.views[0].scores.device
    before, after = (rule.scale, 1.0) if rule.window_sigmoid else (1.0, rule.scale)

    def maps(chosen: slice) -> Tensor:
        views = tuple(replace(view, scores=view.scores[:, chosen]) for view in scores.views)
        found = torch.empty(views[0].scores.shape[1], *size, device=device)  # (q, H, W)
        for (rows, columns), own, part in tiles(WindowScores(views), size, before, rule.window_sigmoid):
            found[own, rows, columns] = part.transpose(0, 1)
        return found

    decision = Decision(rule, class_of_query, subtract, tuple(keep), confidence)
    per_block = max(1, block // (size[0] * size[1]))
    blocks = [slice(first, min(first + per_block, queries)) for first in range(0, queries, per_block)]
    decide = partial(decided, refine(maps), blocks, after, decision)
    return ruled(decide, rule, class_of_query, confidence)


def decided(refined: Maps, blocks, scale: float, decision: Decision, excluded: Tensor | None) -> LabelMap:
    """As in `label_map`, from the refined maps of some queries at a time."""
    decision, seen = replace(decision, excluded=excluded), None
    for chosen in blocks:
        part = refined(chosen) * scale  # (q, H, W)
        seen = decision.see(part.transpose(0, 1), chosen, seen)
    labels = decision.class_of_query[seen.query]
    confidence = decision.result(seen, seen.best) if decision.scored else None
    class_scores = {index: decision.result(seen, found) for index, found in seen.classes.items()}
    return LabelMap(labels, confidence, class_scores)
