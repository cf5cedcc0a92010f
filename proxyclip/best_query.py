"""The best query of each pixel, from blocks of queries that are seen one after the other.

The maximum, its query and the sum of the softmax are kept for each pixel, so that the scores of all queries are never
needed at once.

Shapes: Q queries, q queries of a block, h × w pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from proxyclip.label_rule import LabelRule


class Seen(NamedTuple):
    """What is known about h × w pixels after some blocks of queries.

    best, query: the highest score and its query, the first of equals. top: as best, but excluded queries count. total:
    the sum of exp(score - top), None where no softmax is needed. classes: the best score of each class asked for.
    """

    best: Tensor  # (h, w)
    query: Tensor  # (h, w) int64
    top: Tensor  # (h, w)
    total: Tensor | None  # (h, w)
    classes: dict[int, Tensor]  # (h, w) each


@dataclass(frozen=True)
class Decision:
    """How the scores of all queries become those of a pixel.

    class_of_query: (Q,) integers. subtract: (Q,), subtracted from the scores of each query. keep: classes whose score
    maps are returned. confidence: whether the winning scores are. excluded: (Q,) bool, queries that count in the
    softmax but cannot win.
    """

    rule: LabelRule
    class_of_query: Tensor
    subtract: Tensor | None = None
    keep: tuple[int, ...] = ()
    confidence: bool = True
    excluded: Tensor | None = None

    @property
    def scored(self) -> bool:
        """Whether the winning scores are needed, here or for the threshold."""
        return self.confidence or self.rule.needs_confidence

    @property
    def softmax(self) -> bool:
        return self.rule.activation == "softmax" and (self.scored or bool(self.keep))

    def see(self, scores: Tensor, chosen: slice, before: Seen | None = None) -> Seen:
        """After the scores (h, q, w) of a block of queries, which are overwritten; before: after the blocks so far."""
        if self.subtract is not None:
            scores -= self.subtract[chosen, None]
        best, query = best_query(scores)  # (h, w)
        top = best
        if self.excluded is not None:
            allowed = scores.masked_fill(self.excluded[chosen, None], float("-inf"))  # (h, q, w)
            best, query = best_query(allowed)
        else:
            allowed = scores
        classes = {index: best_of(allowed, self.class_of_query[chosen] == index) for index in self.keep}
        if before is not None:
            query = torch.where(best > before.best, query + chosen.start, before.query)
            best, top = torch.maximum(best, before.best), torch.maximum(top, before.top)
            classes = {index: torch.maximum(found, before.classes[index]) for index, found in classes.items()}
        total = scores.sub_(top[:, None]).exp_().sum(1) if self.softmax else None  # (h, w)
        if self.softmax and before is not None:
            total += before.total * (before.top - top).exp_()
        return Seen(best, query, top, total, classes)

    def result(self, seen: Seen, score: Tensor) -> Tensor:
        """Scores (h, w) as the label rule returns them: probabilities after a softmax."""
        return (score - seen.top).exp_() / seen.total if self.softmax else score


def best_of(scores: Tensor, chosen: Tensor) -> Tensor:
    """Maximum over the chosen queries, (q,) bool: (h, q, w) -> (h, w), minus infinity without any.

    Without a mask as an index on accelerators, as they would have to tell how many there are.
    """
    if scores.device.type == "cpu" and chosen.any():
        return scores[:, chosen].amax(1)
    return scores.masked_fill(~chosen[:, None], float("-inf")).amax(1)


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
