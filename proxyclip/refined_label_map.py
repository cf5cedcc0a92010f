"""From refined score maps to labels, in blocks of queries.

Shapes: Q queries, q queries of a block, H × W the label map.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

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
        for (rows, columns), part in tiles(WindowScores(views), size, before, rule.window_sigmoid):
            found[:, rows, columns] = part.transpose(0, 1)
        return found

    decide = partial(best_of, refine(maps), queries, size, after, rule, class_of_query, subtract, keep, block)
    return ruled(decide, rule, class_of_query)


def best_of(refined: Maps, queries, size, scale, rule, class_of_query, subtract, keep, block, excluded) -> LabelMap:
    """As in `label_map`, from refined maps of all queries."""
    device = class_of_query.device
    best = torch.full(size, float("-inf"), device=device)
    winner = torch.zeros(size, dtype=torch.int64, device=device)
    top = best  # of all queries, also of those that are excluded
    total = torch.zeros(size, device=device)  # of exp(score - top), as far as the queries have been seen
    class_scores = {index: torch.full(size, float("-inf"), device=device) for index in keep}
    per_block = max(1, block // (size[0] * size[1]))
    for first in range(0, queries, per_block):
        chosen = slice(first, min(first + per_block, queries))
        part = refined(chosen) * scale  # (q, H, W)
        if subtract is not None:
            part -= subtract[chosen, None, None]
        if rule.activation == "softmax":
            highest = torch.maximum(part.amax(0), top)  # (H, W)
            total = total * (top - highest).exp() + (part - highest).exp_().sum(0)  # (H, W)
            top = highest
        if excluded is not None:
            part.masked_fill_(excluded[chosen, None, None], float("-inf"))
        highest = part.amax(0)  # (H, W)
        winner = torch.where(highest > best, first + part.argmax(0), winner)
        best = torch.maximum(highest, best)
        for index, found in class_scores.items():
            for own in (class_of_query[chosen] == index).nonzero().flatten().tolist():
                torch.maximum(found, part[own], out=found)
    labels, confidence = class_of_query[winner], best
    if rule.activation == "softmax":
        confidence = (best - top).exp() / total
        class_scores = {index: (found - top).exp() / total for index, found in class_scores.items()}
    return LabelMap(labels, confidence, class_scores)
