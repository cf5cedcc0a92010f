"""Scores at full resolution, tile by tile: nothing of size queries × H × W is ever in memory.

Shapes: Q queries, R rows and C columns of the scores of all windows, H × W the result.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor

from proxyclip.stitching import Band, View, WindowScores, bands

CPU_TILE, ACCELERATOR_TILE = (1_000_000, 64), (100_000_000, 512)  # scores, columns


def tiles(
    scores: WindowScores,
    size: tuple[int, int],
    scale: float = 1.0,
    sigmoid: bool = False,
    tile: tuple[int, int] | None = None,
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """The tiles of the result of `size` (H, W): the place of each, and its scores (tile_h, Q, tile_w).

    scale: factor applied to the scores first. sigmoid: whether one is applied to each window at its own resolution,
    before windows are averaged. tile: number of scores and columns per tile (default: what fits into a processor's
    cache or fills an accelerator).
    """
    views = scores.views
    queries, on_cpu = views[0].scores.shape[1], views[0].scores.device.type == "cpu"
    tile_elements, tile_columns = tile or (CPU_TILE if on_cpu else ACCELERATOR_TILE)
    if sigmoid:
        tile_elements //= 2  # windows overlap: behind a tile stand several times as many pixels of windows
    tile_rows = max(1, tile_elements // (queries * tile_columns))
    down = [bands(view, 0, size[0], tile_rows, sigmoid) for view in views]
    across = [bands(view, 1, size[1], tile_columns, sigmoid) for view in views]
    # In the order of their places in the image, the scores that a tile depends on are neighbours: slices, not copies.
    sources = [
        view.scores.float()[rows[0]][:, :, columns[0]] * scale  # (R, Q, C)
        for view, rows, columns in zip(views, down, across, strict=True)
    ]
    for column_bands in zip(*(found for _, found in across), strict=True):
        strips = [columns(source, band) for source, band in zip(sources, column_bands, strict=True)]
        for row_bands in zip(*(found for _, found in down), strict=True):
            place = row_bands[0].rows, column_bands[0].rows
            yield place, weighted_sum(zip(views, strips, row_bands, column_bands, strict=True))


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
