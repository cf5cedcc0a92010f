"""From scores to labels: the label rule, and how it is applied tile by tile or to refined score maps.

Scores at full resolution are computed in tiles, or in blocks of queries where a refinement needs whole maps, and for
each pixel only the best score so far, its query and the sum of the softmax are kept. Nothing of size queries × H × W is
ever in memory.

Shapes: Q queries, q queries of a block, K classes, R rows and C columns of the scores of all windows, H × W the label
map, h × w the pixels of a tile.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.options import fits
from proxyclip.windows import Band, View, WindowScores, stitching_bands

MAPS_BLOCK = 16_000_000  # scores of a block of refined maps


@dataclass(frozen=True)
class LabelRule:
    """How scores become labels.

    scale: factor applied to the scores first (logit scale). window_sigmoid: whether a sigmoid is applied to each window
    at its own resolution, before windows are averaged. subtract: pairs of class name and value, subtracted from the
    scores of the class after that. activation: "softmax" over all queries, or "none". synonyms: what a class with
    several names gets after a softmax: the "best" of their probabilities, as published benchmarks do, or their "sum",
    so that a synonym never lowers a class. threshold: pixels whose winning score (a probability after a softmax) is
    below it get label 0. area: before that, classes get no pixel if their share of all pixels with labels other than 0
    is at most this; those pixels get the next best class (0: no such rule; SCLIP, arXiv:2312.01597, in its published
    code).
    """

    scale: float = 1.0
    window_sigmoid: bool = False
    subtract: tuple[tuple[str, float], ...] = ()
    activation: Literal["softmax", "none"] = "softmax"
    synonyms: Literal["best", "sum"] = "best"
    threshold: float = 0.0
    area: float = 0.0

    def __post_init__(self):
        if self.activation not in ("softmax", "none"):
            raise InputError(f'activation is {self.activation!r}; choose "softmax" or "none"')
        if self.synonyms not in ("best", "sum"):
            raise InputError(f'synonyms is {self.synonyms!r}; choose "sum" or "best"')
        if not 0 <= self.area < 1:
            raise InputError(f"area is {self.area!r}; choose a share of pixels, at least 0 and below 1")

    def with_threshold(self, threshold: float | None) -> "LabelRule":
        """The same rule with another threshold; None keeps it. InputError unless it is a probability."""
        if threshold is None:
            return self
        if not fits(threshold, float) or not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}; it must be a probability between 0 and 1")
        return replace(self, threshold=float(threshold))

    @property
    def needs_confidence(self) -> bool:
        """Whether any winning score may be below the threshold; probabilities are not negative."""
        return self.threshold > 0 or self.activation == "none"

    def settings(self) -> dict:
        """Everything but the threshold, which each call may set; ready for JSON."""
        return {
            "logit_scale": self.scale,
            "window_sigmoid": self.window_sigmoid,
            "subtract": dict(self.subtract),
            "activation": self.activation,
            **({"area": self.area} if self.area else {}),
        }


class LabelMap(NamedTuple):
    """labels (H, W), in the type of `class_of_query`; confidence (H, W) float32, the winning score, None unless asked
    for; by class index the score maps (H, W) asked for."""

    labels: Tensor
    confidence: Tensor | None
    class_scores: dict[int, Tensor]

    def map(self, function: Callable[[Tensor], Tensor]) -> "LabelMap":
        """The same with a function applied to every tensor."""
        confidence = None if self.confidence is None else function(self.confidence)
        scores = {index: function(scores) for index, scores in self.class_scores.items()}
        return LabelMap(function(self.labels), confidence, scores)


def decide_labels(
    scores: WindowScores,
    size: tuple[int, int],
    rule: LabelRule,
    class_of_query: Tensor,
    *,
    names_per_class: tuple[int, ...] | None = None,
    subtract: Tensor | None = None,
    keep: Iterable[int] = (),
    confidence: bool = True,
    refine: Callable | None = None,
    tile: tuple[int, ...] | None = None,
    block: int = MAPS_BLOCK,
) -> LabelMap:
    """The label map of one image at `size` (H, W), independent of the size that was cut.

    class_of_query: (Q,) integers, in the type that labels get. names_per_class: how many of the queries, class by
    class, belong to each class; needed where the rule sums their probabilities. subtract: (Q,), subtracted from the
    scores of each query. keep: classes whose score maps are returned. confidence: whether the winning scores are
    returned; without them, and without a threshold, there is no softmax to compute. refine: a refinement from the maps
    of the model to those that labels are decided by, see `proxyclip.refine`; it sees them before the scale is applied,
    or after the sigmoid of the windows. tile, block: how much is computed at a time, see `Tile` and MAPS_BLOCK
    (default: what suits the device).
    """
    decision = Decision(rule, class_of_query, subtract, tuple(keep), confidence)
    if rule.synonyms == "sum" and rule.activation == "softmax" and max(names_per_class) > 1:
        class_of_query = torch.arange(len(names_per_class), dtype=class_of_query.dtype, device=class_of_query.device)
        decision = replace(decision, class_of_query=class_of_query, names_per_class=names_per_class)
    if refine is None:

        def decide(decision: Decision) -> LabelMap:
            return decide_by_tiles(scores, size, decision, tile)
    else:
        maps = refine(full_maps(scores, size, rule))

        def decide(decision: Decision) -> LabelMap:
            return decide_by_maps(maps, size, decision, block)

    label_map = decide(decision)
    if rule.area and (small := small_classes(label_map.labels, rule.area, class_of_query)).any():
        label_map = decide(replace(decision, excluded=small[class_of_query.long()]))
    if rule.needs_confidence:
        label_map.labels.masked_fill_(label_map.confidence < rule.threshold, 0)
    return label_map if confidence else label_map._replace(confidence=None)


def small_classes(labels: Tensor, area: float, class_of_query: Tensor) -> Tensor:
    """(K,) bool: which classes other than 0 have at most that share of the pixels (H, W) with labels other than 0."""
    pixels = labels.flatten().bincount(minlength=int(class_of_query.max()) + 1)  # (K,)
    small = pixels <= area * pixels[1:].sum()  # (K,)
    small[0] = False
    return small


# The best query of each pixel


@dataclass(frozen=True)
class Decision:
    """How the scores of all queries become those of a pixel; see `decide_labels`.

    excluded: (Q,) bool, queries that count in the softmax but cannot win. names_per_class: of the classes whose names
    are summed; then classes take the place of queries in class_of_query and excluded.
    """

    rule: LabelRule
    class_of_query: Tensor
    subtract: Tensor | None = None
    keep: tuple[int, ...] = ()
    confidence: bool = True
    excluded: Tensor | None = None
    names_per_class: tuple[int, ...] | None = None

    @property
    def scored(self) -> bool:
        """Whether the winning scores are needed, for the caller or for the threshold."""
        return self.confidence or self.rule.needs_confidence

    @property
    def softmax(self) -> bool:
        return self.rule.activation == "softmax" and (self.scored or bool(self.keep))


class RunningBest:
    """The best query of each of h × w pixels, from blocks of queries that come one after the other.

    best, query: the highest score and its query, the first of equals. top: as best, but excluded queries count. total:
    the sum of exp(score - top), None where no softmax is needed. classes: the best score of each class to keep.
    """

    def __init__(self, decision: Decision):
        self.decision = decision
        self.best = self.query = self.top = self.total = None  # (h, w) each
        self.classes: dict[int, Tensor] = {}  # (h, w) each

    def update(self, scores: Tensor, queries: slice) -> None:
        """Takes the scores (h, q, w) of a block of queries, which are overwritten."""
        decision = self.decision
        if decision.subtract is not None:
            scores -= decision.subtract[queries, None]
        if decision.names_per_class is not None:
            scores, queries = sum_names(scores, queries, decision.names_per_class)  # (h, k, w) of k classes
        best, query = best_query(scores)  # (h, w)
        top, allowed = best, scores
        if decision.excluded is not None:
            allowed = scores.masked_fill(decision.excluded[queries, None], float("-inf"))  # (h, q, w)
            best, query = best_query(allowed)
        owners = decision.class_of_query[queries]  # (q,)
        classes = {index: best_of_class(allowed, owners == index) for index in decision.keep}
        query = query + queries.start
        before = self.top
        if before is not None:
            query = torch.where(best > self.best, query, self.query)
            best, top = torch.maximum(best, self.best), torch.maximum(top, self.top)
            classes = {index: torch.maximum(score, self.classes[index]) for index, score in classes.items()}
        if decision.softmax:
            total = scores.sub_(top[:, None]).exp_().sum(1)  # (h, w)
            self.total = total if before is None else total + self.total * (before - top).exp_()
        self.best, self.query, self.top, self.classes = best, query, top, classes

    def result(self, score: Tensor) -> Tensor:
        """Scores (h, w) as the label rule returns them: probabilities after a softmax."""
        return (score - self.top).exp_() / self.total if self.decision.softmax else score

    def label_map(self) -> LabelMap:
        """The labels of these pixels before area rule and threshold."""
        confidence = self.result(self.best) if self.decision.scored else None
        classes = {index: self.result(score) for index, score in self.classes.items()}
        return LabelMap(self.decision.class_of_query[self.query], confidence, classes)


def sum_names(scores: Tensor, queries: slice, names_per_class: tuple[int, ...]) -> tuple[Tensor, slice]:
    """Scores (h, q, w) of some whole classes' names -> (h, k, w), and these classes: the softmax of the result is the
    sum of the names' probabilities."""
    ends = [*accumulate(names_per_class, initial=0)]
    classes = slice(ends.index(queries.start), ends.index(queries.stop))
    of_classes = scores.split(names_per_class[classes], dim=1)
    return torch.stack([part.logsumexp(1) if part.shape[1] > 1 else part[:, 0] for part in of_classes], 1), classes


def best_of_class(scores: Tensor, members: Tensor) -> Tensor:
    """Maximum over the queries of a class, (q,) bool: (h, q, w) -> (h, w), minus infinity without any.

    On accelerators without a mask as an index, for which they would have to tell how many there are.
    """
    if scores.device.type == "cpu" and members.any():
        return scores[:, members].amax(1)
    return scores.masked_fill(~members[:, None], float("-inf")).amax(1)


def best_query(scores: Tensor, block: int | None = None) -> tuple[Tensor, Tensor]:
    """Maximum over the queries of (h, Q, w) and its query, the first on ties; both (h, w).

    On a CPU, PyTorch computes amax ten times as fast as a maximum with its index. There, the index is determined in two
    steps: first the block of queries, then the query within the block; √Q queries form a block unless `block` is set.
    """
    if scores.device.type != "cpu":
        return scores.max(1)
    block = block or math.isqrt(scores.shape[1] - 1) + 1
    of_blocks = torch.stack([part.amax(1) for part in scores.split(block, dim=1)], dim=1)  # (h, blocks, w)
    best = of_blocks.amax(1)  # (h, w)
    blocks = first_equal(of_blocks, best)  # (h, w)
    members = blocks[:, None] * block + torch.arange(block)[:, None]  # (h, block, w)
    within = first_equal(scores.gather(1, members.clamp_(max=scores.shape[1] - 1)), best)  # (h, w)
    return best, blocks * block + within


def first_equal(values: Tensor, best: Tensor) -> Tensor:
    """Index of the first of (h, n, w) that equals (h, w), along n; 0 if none does, as where all are NaN."""
    index = torch.zeros(best.shape, dtype=torch.int64)
    for candidate in reversed(range(1, values.shape[1])):
        index.masked_fill_(values[:, candidate] == best, candidate)
    return index.masked_fill_(values[:, 0] == best, 0)


# Tiles of scores


class Tile(NamedTuple):
    """How many scores and columns a tile has, and at most how many queries."""

    scores: int
    columns: int
    queries: int = 2**14


CPU_TILE, ACCELERATOR_TILE = Tile(1_000_000, 64), Tile(16_000_000, 512, 128)


def decide_by_tiles(
    scores: WindowScores, size: tuple[int, int], decision: Decision, tile: tuple[int, ...] | None = None
) -> LabelMap:
    """The best query at each pixel, before area rule and threshold."""
    device, queries = scores.views[0].scores.device, scores.views[0].scores.shape[1]
    labels = torch.empty(size, dtype=decision.class_of_query.dtype, device=device)
    confidence = torch.empty(size, device=device) if decision.scored else None
    whole = LabelMap(labels, confidence, {index: torch.empty(size, device=device) for index in decision.keep})
    running: dict[int, RunningBest] = {}  # tiles of which some queries are missing, by their first row
    # A block of queries would cut classes in two.
    whole_classes = decision.names_per_class is not None
    for region, chosen, part in score_tiles(scores, size, decision.rule, tile, whole_classes):  # (tile_h, q, tile_w)
        best = running.setdefault(region[0].start, RunningBest(decision))
        best.update(part, chosen)
        if chosen.stop == queries:
            decided = running.pop(region[0].start).label_map()
            whole.labels[region] = decided.labels
            if confidence is not None:
                confidence[region] = decided.confidence
            for index, scores_of_class in decided.class_scores.items():
                whole.class_scores[index][region] = scores_of_class
    return whole


def score_tiles(
    scores: WindowScores,
    size: tuple[int, int],
    rule: LabelRule,
    tile: tuple[int, ...] | None = None,
    all_queries: bool = False,
) -> Iterator[tuple[tuple[slice, slice], slice, Tensor]]:
    """The tiles of the scores at `size` (H, W): rows and columns of each, its queries, and its scores
    (tile_h, q, tile_w), after the rule's scale and sigmoid.

    The blocks of queries of a tile come in order. tile: the numbers of a `Tile` (default: what fits into a processor's
    cache or suits an accelerator). all_queries: whether they are one block.
    """
    views, sigmoid = scores.views, rule.window_sigmoid
    queries, on_cpu = views[0].scores.shape[1], views[0].scores.device.type == "cpu"
    tile = Tile(*tile) if tile else CPU_TILE if on_cpu else ACCELERATOR_TILE
    # With a sigmoid, windows overlap: a tile is computed from several times as many pixels of windows.
    elements, together = (
        tile.scores // 2 if sigmoid else tile.scores,
        queries if all_queries else min(queries, tile.queries),
    )
    tile_rows = max(1, elements // (together * tile.columns))
    down = [stitching_bands(view, 0, out=size[0], rows=tile_rows, sigmoid=sigmoid) for view in views]
    across = [stitching_bands(view, 1, out=size[1], rows=tile.columns, sigmoid=sigmoid) for view in views]
    # In the order of their positions in the image, the scores of a tile are neighbours: slices, not copies.
    sources = [
        view.scores.float()[rows][:, :, order] * rule.scale  # (R, Q, C)
        for view, (rows, _), (order, _) in zip(views, down, across, strict=True)
    ]
    for column_bands in zip(*(bands for _, bands in across), strict=True):
        for first in range(0, queries, together):
            chosen = slice(first, min(first + together, queries))
            strips = [
                apply_columns(source[:, chosen], band) for source, band in zip(sources, column_bands, strict=True)
            ]
            for row_bands in zip(*(bands for _, bands in down), strict=True):
                region = row_bands[0].rows, column_bands[0].rows
                yield region, chosen, weighted_sum(zip(views, strips, row_bands, column_bands, strict=True))


def apply_columns(source: Tensor, band: Band) -> Tensor:
    """(R, q, C) -> (R, q, tile_w), or before a sigmoid (R, q, pixels of windows)."""
    weights = band.weights if band.upsample is None else band.upsample
    return source[:, :, band.source_rows] @ weights.T


def weighted_sum(parts: Iterable[tuple[View, Tensor, Band, Band]]) -> Tensor:
    """The scores of one tile, (tile_h, q, tile_w): of all views, by their weights."""
    total = None
    for view, strip, rows, columns in parts:
        source = strip[rows.source_rows]  # (source rows, q, tile_w or pixels)
        if rows.upsample is not None:
            source = apply_rows(rows.upsample, source).sigmoid_() @ columns.weights.T  # (pixels, q, tile_w)
        tile = apply_rows(rows.weights, source)  # (tile_h, q, tile_w)
        if view.weight != 1:
            tile *= view.weight
        total = tile if total is None else total + tile
    return total


def apply_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """Weighted sums of rows: (n, m), (m, q, w) -> (n, q, w)."""
    return (weights @ rows.flatten(1)).unflatten(1, rows.shape[1:])


# Whole maps, for refinements


def full_maps(scores: WindowScores, size: tuple[int, int], rule: LabelRule) -> Callable[[slice], Tensor]:
    """The score maps of some queries, computed when they are asked for: a slice of the queries -> (q, H, W).

    Behind a sigmoid they are scaled; otherwise the scale is applied after the refinement, by `decide_by_maps`.
    """
    plain = rule if rule.window_sigmoid else replace(rule, scale=1.0)

    def maps(chosen: slice) -> Tensor:
        views = tuple(replace(view, scores=view.scores[:, chosen]) for view in scores.views)
        whole = torch.empty(views[0].scores.shape[1], *size, device=views[0].scores.device)  # (q, H, W)
        for (rows, columns), queries, part in score_tiles(WindowScores(views), size, plain):
            whole[queries, rows, columns] = part.transpose(0, 1)
        return whole

    return maps


def decide_by_maps(
    maps: Callable[[slice], Tensor], size: tuple[int, int], decision: Decision, block: int = MAPS_BLOCK
) -> LabelMap:
    """As `decide_by_tiles`, from the refined maps of some queries at a time."""
    scale = 1.0 if decision.rule.window_sigmoid else decision.rule.scale
    per_block = max(1, block // (size[0] * size[1]))
    # Blocks of whole classes where names are summed, of single queries otherwise.
    ends = [*accumulate(decision.names_per_class or [1] * len(decision.class_of_query))]
    best, start = RunningBest(decision), 0
    for end, following in zip(ends, [*ends[1:], math.inf], strict=True):
        if following - start > per_block:
            chosen = slice(start, end)
            best.update((maps(chosen) * scale).transpose(0, 1), chosen)  # (H, q, W)
            start = end
    return best.label_map()
