"""Where windows lie, how they are batched, and the weights with which pixels draw on their scores."""

import pytest
import torch
import torch.nn.functional as F
from scored import score_images

from proxyclip.errors import InputError
from proxyclip.windows import (
    Batches,
    SlidingWindows,
    View,
    axis_matrices,
    cut,
    make_bands,
    resize_matrix,
    stitching_bands,
)

GREY = torch.tensor([0.5, 0.25, 0.75])


def windows_of(length, crop, stride):
    """Start and end of each window: step by step, the last pulled back to the border."""
    found, start = [], 0
    while True:
        if start + crop >= length:
            return [*found, (max(length - crop, 0), length)]
        found.append((start, start + crop))
        start += stride


@pytest.mark.parametrize(("crop", "stride"), [(5, 1), (5, 3), (5, 5), (8, 4), (13, 2)])
def test_windows_of_an_axis(crop, stride):
    windows = SlidingWindows(crop, stride)
    for length in range(1, 60):
        expected = windows_of(length, crop, stride)
        assert [(start, start + windows.side(length)) for start in windows.starts(length)] == expected, length
        covered = {pixel for start, end in expected for pixel in range(start, end)}
        assert covered == set(range(length))
        assert len(set(expected)) == len(expected)
        assert windows.count((length, 7)) == len(expected) * len(windows_of(7, crop, stride))


def test_the_whole_image_as_one_window():
    windows = SlidingWindows(0, 112)
    assert windows.starts(1000) == [0] and windows.side(1000) == 1000 and windows.padding(1000) == (0, 0)


@pytest.mark.parametrize("multiple", [1, 8, 56])
def test_padding(multiple):
    for length in range(1, 150):
        windows = SlidingWindows(120, 40, multiple)
        before, after = windows.padding(length)
        assert (windows.side(length) + before + after) % multiple == 0
        assert before + after < multiple and after - before in (0, 1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((-1, 112), "crop -1 and stride 112 must be positive"),
        ((336, 0), "stride 0 must be positive"),
        ((336, -5), "stride -5 must be positive"),
        ((100, 101), "stride 101 above crop 100 would leave gaps"),
    ],
)
def test_windows_that_cannot_be(given, sentence):
    with pytest.raises(InputError, match=sentence):
        SlidingWindows(*given)


@pytest.mark.parametrize("crop", [0, 20])
def test_an_image_smaller_than_a_patch_is_padded(crop):
    windows = SlidingWindows(crop, 1, min_side=14)
    for length in (1, 2, 13):
        before, after = windows.padding(length)
        assert length + before + after == 14 and after - before in (0, 1)
    assert windows.padding(14) == (0, 0) == SlidingWindows(crop, 1).padding(2)


def test_crops_and_their_padding():
    image = torch.rand(3, 9, 13)
    windows = SlidingWindows(6, 4, 8)
    crops = list(cut(image, windows, GREY))
    assert len(crops) == 2 * 3
    places = [(top, left) for top in (0, 3) for left in (0, 4, 7)]
    for crop, (top, left) in zip(crops, places, strict=True):
        assert crop.shape == (3, 8, 8)
        assert torch.equal(crop[:, 1:7, 1:7], image[:, top : top + 6, left : left + 6])
        border = torch.ones(8, 8, dtype=torch.bool)
        border[1:7, 1:7] = False
        assert torch.equal(crop[:, border], GREY[:, None].expand(3, 28))


# Batches


class Scorer:
    """Gives each window's mean colour as its scores, and remembers the batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, crops):
        self.batches.append(tuple(crops.shape))
        return F.adaptive_avg_pool2d(crops, (2, 3))  # (B, 3, 2, 3): three queries


def images(sizes, taken):
    for index, (height, width) in enumerate(sizes):
        taken.append(index)
        yield torch.full((3, height, width), index / 10)


def test_a_view_holds_all_windows_in_their_places():
    image = torch.arange(8.0)[:, None] * 10 + torch.arange(12.0)  # (8, 12)
    (found,) = score_images(
        lambda crops: crops[:, :1], [image.expand(3, 8, 12)], SlidingWindows(4, 4, 1), GREY, Batches(4)
    )
    (view,) = found.views
    assert view.size == (8, 12)
    assert torch.equal(view.scores[:, 0], image)  # windows without overlap: the image itself


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_images_in_order_with_their_own_scores(batch):
    sizes = [(10, 10), (10, 16), (6, 10), (7, 7), (22, 10), (10, 10), (10, 10)]
    scorer, windows = Scorer(), SlidingWindows(10, 6, 1)
    stream = score_images(scorer, images(sizes, []), windows, GREY, Batches(batch))
    found = [one for scores in stream for one in scores.views]
    assert [view.size for view in found] == sizes
    for index, (view, size) in enumerate(zip(found, sizes, strict=True)):
        rows, columns = len(windows.starts(size[0])), len(windows.starts(size[1]))
        assert view.scores.shape == (2 * rows, 3, 3 * columns)
        torch.testing.assert_close(view.scores, torch.full_like(view.scores, index / 10))
    counts = {side: [shape[0] for shape in scorer.batches if min(shape[2:]) == side] for side in (6, 7, 10)}
    assert counts[6] == [1] and counts[7] == [1]  # batches of their own
    assert set(counts[10]) == {batch}  # always the same size
    assert len(counts[10]) in range(-(-8 // batch), -(-8 // batch) + 2)  # with a batch that ends early, at most


def test_windows_of_several_images_share_batches():
    scorer = Scorer()
    stream = score_images(scorer, images([(10, 16)] * 5, []), SlidingWindows(10, 6, 1), GREY, Batches(4))
    assert len(list(stream)) == 5  # two windows each
    assert [shape[0] for shape in scorer.batches] == [4, 4, 4]


@pytest.mark.parametrize("crop", [0, 10])
def test_other_sizes_have_batches_of_their_own(crop):
    scorer, sizes = Scorer(), [(6, 22), (6, 22), (10, 10), (6, 22)]  # three windows where images are cut
    list(score_images(scorer, images(sizes, []), SlidingWindows(crop, 6, 1), GREY, Batches(2)))
    assert [shape[0] for shape in scorer.batches] == ([1] * 4 if not crop else [2, 1, 2, 1, 2, 1, 2])


def test_images_do_not_pile_up_behind_windows_that_wait():
    taken = []
    stream = score_images(
        Scorer(), images([(10, 10)] + [(6, 6)] * 50, taken), SlidingWindows(10, 6, 1), GREY, Batches(4)
    )
    next(stream)
    assert len(taken) <= 5


def test_images_are_taken_only_as_batches_need_them():
    taken = []
    stream = score_images(Scorer(), images([(10, 10)] * 20, taken), SlidingWindows(10, 6, 1), GREY, Batches(3))
    assert taken == []
    for number in range(1, 16):
        next(stream)
        assert max(taken) + 1 <= 3 * -(-number // 3) + 1  # the batches so far, and the one that showed they were full
    assert max(taken) < 16


def test_no_images():
    assert list(score_images(Scorer(), [], SlidingWindows(336, 112), GREY, Batches(4))) == []


class SmallMemory(Scorer):
    """An accelerator whose memory holds two windows."""

    def __call__(self, crops):
        if len(crops) > 2:
            raise torch.OutOfMemoryError("no memory")
        return super().__call__(crops)


def test_a_batch_that_does_not_fit_is_halved():
    scorer, windows = SmallMemory(), SlidingWindows(10, 6)
    batches = Batches(6)
    with pytest.warns(UserWarning) as warned:
        (found,) = score_images(scorer, [torch.rand(3, 22, 16)], windows, GREY, batches)
    first = "6 windows do not fit in the memory of cpu together; continuing with 3 at a time"
    assert len(warned) == 2 and str(warned[0].message).startswith(first)
    list(score_images(scorer, [torch.rand(3, 22, 16)], windows, GREY, batches))  # says nothing again
    assert len(warned) == 2
    scorer.batches = scorer.batches[:6]
    assert [shape[0] for shape in scorer.batches] == [1] * 6  # neither six nor three fit
    (alone,) = score_images(Scorer(), [torch.rand(3, 22, 16)], windows, GREY, Batches(1))
    assert found.views[0].scores.shape == alone.views[0].scores.shape


def test_one_window_that_does_not_fit_is_one_sentence():
    def full(crops):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(InputError, match="one window of 10x12 pixels does not fit in the memory of cpu"):
        list(score_images(full, [torch.rand(3, 10, 12)], SlidingWindows(12, 6, 2), GREY, Batches(6)))


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


BANDS = {"windows": SlidingWindows(32, 16, 8), "length": 80, "grid": 16, "window": 24, "out": 70, "rows": 16}
BANDS |= {"sigmoid": True, "flipped": False, "device": torch.device("cpu")}


def plain(made) -> list:
    """Bands as values that can be compared."""
    if torch.is_tensor(made):
        return [made.device.type, made.tolist() if not made.is_meta else None]
    return [plain(part) for part in made] if isinstance(made, (tuple, list)) else [made]


@pytest.mark.parametrize("change", [
    {"windows": SlidingWindows(32, 15, 8)}, {"length": 79}, {"grid": 32}, {"window": 20}, {"out": 60}, {"rows": 8},
    {"sigmoid": False}, {"flipped": True}, {"device": torch.device("meta")},
], ids=str)  # fmt: skip
def test_bands_of_other_fields_are_others(change):
    """A cache that has the neighbour returns what an empty one does, and that differs from the neighbour."""
    make_bands.cache_clear()
    expected = plain(make_bands(**BANDS | change))
    make_bands.cache_clear()
    neighbour = plain(make_bands(**BANDS))
    assert plain(make_bands(**BANDS | change)) == expected != neighbour
