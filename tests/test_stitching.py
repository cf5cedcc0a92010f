"""The weights with which pixels draw on the windows' scores, against interpolation and averaging of real windows."""

import pytest
import torch
import torch.nn.functional as F

from proxyclip.windows import SlidingWindows, View, axis_matrices, resize_matrix, stitching_bands


def interpolate(row, out):
    return F.interpolate(row[None, None], out, mode="linear")[0, 0]


def slowly(windows, length, out, scores, function=lambda pixels: pixels, window=None):
    """scores (windows, h) of an axis -> (out,): upsample, apply a function, cut the padding, average, resize."""
    side, (before, after) = windows.side(length), windows.padding(length)
    total, covered = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.float64)
    for start, row in zip(windows.starts(length), scores, strict=True):
        wide = function(interpolate(row, window or before + side + after))
        wide = interpolate(wide, before + side + after)
        total[start : start + side] += wide[before : before + side]
        covered[start : start + side] += 1
    return interpolate(total / covered, out)


def matrix(windows, length, grid, out, rows=7, sigmoid=False, window=None):
    """The bands of an axis as one matrix, or as the two around a sigmoid: weights and upsampling."""
    view = View(torch.zeros(grid, 1, 1), windows, (length, length), window_size=window and (window, window))
    order, found = stitching_bands(view, 0, out=out, rows=rows, sigmoid=sigmoid)
    assert [band.rows.start for band in found] == list(range(0, out, rows)) and found[-1].rows.stop == out
    for band in found:
        weights = torch.zeros(len(band.weights), grid)
        if sigmoid:
            lifted = torch.zeros(len(band.upsample), grid)
            lifted[:, order[band.source_rows]] = band.upsample
            yield band.weights, lifted
        else:
            weights[:, order[band.source_rows]] = band.weights
            yield weights


WINDOWS = [SlidingWindows(20, 8, 16), SlidingWindows(20, 20, 1), SlidingWindows(56, 8, 56), SlidingWindows(20, 7, 3)]
SIZES = [(47, 47), (47, 80), (47, 5), (20, 13), (1, 9), (33, 1), (130, 61)]


@pytest.mark.parametrize("windows", [*WINDOWS, SlidingWindows(0, 1, min_side=30)])
@pytest.mark.parametrize(("length", "out"), SIZES)
def test_linear(windows, length, out):
    count, per_window = len(windows.starts(length)), 5
    whole = torch.cat(list(matrix(windows, length, count * per_window, out)))  # (out, count * per_window)
    torch.testing.assert_close(whole.sum(1), torch.ones(out), atol=1e-6, rtol=0)
    assert (whole >= 0).all()
    scores = torch.rand(count, per_window, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = slowly(windows, length, out, scores)
    if not windows.crop and windows.padding(length) == (0, 0):
        expected = interpolate(scores[0], out)  # one window is resized once
    torch.testing.assert_close(whole.double() @ scores.flatten(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("windows", [*WINDOWS, SlidingWindows(0, 1)])
@pytest.mark.parametrize("window", [None, 31])
@pytest.mark.parametrize(("length", "out"), SIZES)
def test_sigmoid_of_each_window(windows, window, length, out):
    count, per_window = len(windows.starts(length)), 5
    scores = torch.randn(count, per_window, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    pairs = matrix(windows, length, count * per_window, out, sigmoid=True, window=window)
    got = torch.cat([weights.double() @ (up.double() @ scores.flatten()).sigmoid() for weights, up in pairs])
    torch.testing.assert_close(got, slowly(windows, length, out, scores, torch.sigmoid, window), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("length", "out"), [(7, 19), (19, 7), (5, 5), (1, 4), (4, 1)])
def test_resizing_as_pytorch_does(length, out):
    taps = resize_matrix(length, out)
    whole = torch.zeros(out, length, dtype=torch.float64).scatter_add_(1, taps.columns, taps.values)
    row = torch.rand(length, dtype=torch.float64)
    torch.testing.assert_close(whole @ row, interpolate(row, out), atol=1e-12, rtol=0)


def test_bands_are_made_once_and_small():
    view = View(torch.zeros(1, 1, 1), SlidingWindows(336, 112, 56), (1, 2048))
    view = View(torch.zeros(42, 1, 17 * 42), view.windows, view.size)
    order, found = stitching_bands(view, 1, out=60_000, rows=64, sigmoid=False)
    assert stitching_bands(view, 1, out=60_000, rows=64, sigmoid=False)[1] is found
    assert sum(band.weights.nbytes for band in found) < 40e6  # the whole matrix would have 171 MB
    taps = axis_matrices(view.windows, length=2048, grid=17 * 42, window=None, out=60_000, sigmoid=False)
    assert max(part.columns.shape[1] for part in taps) <= 8
