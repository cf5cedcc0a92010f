"""Scores at full resolution, tile by tile: nothing of size queries × H × W is ever in memory.

Shapes: Q queries, q queries of a block, R rows and C columns of the scores of all windows, H × W the result.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from proxyclip.stitching import Band, View, WindowScores, bands


class Tile(NamedTuple):
    """How many scores and columns a tile has, and at most how many queries."""

    scores: int
    columns: int
    queries: int = 2**14


CPU_TILE, ACCELERATOR_TILE = Tile(1_000_000, 64), Tile(16_000_000, 512, 128)


def tiles(
    scores: WindowScores,
    size: tuple[int, int],
    scale: float = 1.0,
    sigmoid: bool = False,
    tile: tuple[int, ...] | None = None,
) -> Iterator[tuple[tuple[slice, slice], slice, Tensor]]:
    """The tiles of the result of `size` (H, W): the place of each, its queries, and its scores (tile_h, q, tile_w).

    The blocks of queries at a place come in order. scale: factor applied to the scores first. sigmoid: whether one is
    applied to each window at its own resolution, before windows are averaged. tile: the numbers of a `Tile` (default:
    what fits into a processor's cache or suits an accelerator).
    """
    views = scores.views
    queries, on_cpu = views[0].scores.shape[1], views[0].scores.device.type == "cpu"
    tile = Tile(*tile) if tile else CPU_TILE if on_cpu else ACCELERATOR_TILE
    # Behind a sigmoid, windows overlap: behind a tile stand several times as many pixels of windows.
    elements, together = tile.scores // 2 if sigmoid else tile.scores, min(queries, tile.queries)
    tile_rows = max(1, elements // (together * tile.columns))
    down = [bands(view, 0, size[0], tile_rows, sigmoid) for view in views]
    across = [bands(view, 1, size[1], tile.columns, sigmoid) for view in views]
    # In the order of their places in the image, the scores that a tile depends on are neighbours: slices, not copies.
    sources = [
        view.scores.float()[rows][:, :, order] * scale  # (R, Q, C)
        for view, (rows, _), (order, _) in zip(views, down, across, strict=True)
    ]
    for column_bands in zip(*(found for _, found in across), strict=True):
        for first in range(0, queries, together):
            chosen = slice(first, min(first + together, queries))
            strips = [columns(source[:, chosen], band) for source, band in zip(sources, column_bands, strict=True)]
            for row_bands in zip(*(found for _, found in down), strict=True):
                place = row_bands[0].rows, column_bands[0].rows
                yield place, chosen, weighted_sum(zip(views, strips, row_bands, column_bands, strict=True))


def columns(source: Tensor, band: Band) -> Tensor:
    """(R, q, C) -> (R, q, tile_w), or behind a sigmoid (R, q, pixels of windows)."""
    weights = band.weights if band.upsample is None else band.upsample
    return source[:, :, band.near] @ weights.T


def weighted_sum(parts: Iterable[tuple[View, Tensor, Band, Band]]) -> Tensor:
    """The scores of one tile, (tile_h, q, tile_w): of all views, by their weights."""
    total = None
    for view, strip, rows, across in parts:
        near = strip[rows.near]  # (near, q, tile_w or pixels)
        if rows.upsample is not None:
            near = combine(rows.upsample, near).sigmoid_() @ across.weights.T  # (pixels, q, tile_w)
        tile = combine(rows.weights, near)  # (tile_h, q, tile_w)
        if view.weight != 1:
            tile *= view.weight
        total = tile if total is None else total + tile
    return total


def combine(weights: Tensor, rows: Tensor) -> Tensor:
    """Weighted sums of rows: (n, m), (m, q, w) -> (n, q, w)."""
    return (weights @ rows.flatten(1)).unflatten(1, rows.shape[1:])
