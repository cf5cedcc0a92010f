"""Where windows lie, how their scores are stitched, and in what order pictures are taken."""

import pytest
import torch
import torch.nn.functional as F

from proxyclip.errors import InputError
from proxyclip.sliding import Decision, Windows, cut, decide, mosaics, stitching_matrix

GREY = (0.5, 0.25, 0.75)


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
    windows = Windows(crop, stride)
    for length in range(1, 60):
        expected = windows_of(length, crop, stride)
        assert [(start, start + windows.side(length)) for start in windows.starts(length)] == expected, length
        covered = {pixel for start, end in expected for pixel in range(start, end)}
        assert covered == set(range(length))
        assert len(set(expected)) == len(expected)
        assert windows.count((length, 7)) == len(expected) * len(windows_of(7, crop, stride))


def test_the_whole_picture_as_one_window():
    windows = Windows(0, 112)
    assert windows.starts(1000) == [0] and windows.side(1000) == 1000 and windows.padding(1000) == (0, 0)


@pytest.mark.parametrize("multiple", [1, 8, 56])
def test_padding(multiple):
    for length in range(1, 150):
        windows = Windows(120, 40, multiple)
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
        Windows(*given)


def test_the_default_is_the_paper_s():
    assert (Windows().crop, Windows().stride, Windows().multiple) == (336, 112, 56)


def test_crops_and_their_padding():
    picture = torch.rand(3, 9, 13)
    windows = Windows(6, 4, 8)
    crops = list(cut(picture, windows, GREY))
    assert len(crops) == 2 * 3
    places = [(top, left) for top in (0, 3) for left in (0, 4, 7)]
    for crop, (top, left) in zip(crops, places, strict=True):
        assert crop.shape == (3, 8, 8)
        assert torch.equal(crop[:, 1:7, 1:7], picture[:, top : top + 6, left : left + 6])
        border = torch.ones(8, 8, dtype=torch.bool)
        border[1:7, 1:7] = False
        assert torch.equal(crop[:, border], torch.tensor(GREY)[:, None].expand(3, 28))


@pytest.mark.parametrize("windows", [Windows(20, 8, 16), Windows(20, 20, 1), Windows(56, 8), Windows(0, 1)])
@pytest.mark.parametrize(("length", "out"), [(47, 47), (47, 80), (47, 5), (20, 13), (1, 9), (33, 1)])
def test_stitching_matrix(windows, length, out):
    """Against interpolation and averaging of real windows."""
    count, cells = len(windows.starts(length)), 5
    matrix = stitching_matrix(length, count * cells, windows, out)
    assert matrix.shape == (out, count * cells) and matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.sum(1), torch.ones(out), atol=1e-6, rtol=0)
    assert (matrix >= 0).all()

    scores = torch.rand(count, cells, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    side, (before, after) = windows.side(length), windows.padding(length)
    total, covered = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.float64)
    for start, row in zip(windows.starts(length), scores, strict=True):
        wide = F.interpolate(row[None, None], before + side + after, mode="linear")[0, 0]
        total[start : start + side] += wide[before : before + side]
        covered[start : start + side] += 1
    expected = F.interpolate((total / covered)[None, None], out, mode="linear")[0, 0]
    if windows.crop == 0:
        expected = F.interpolate(scores[:1, None], out, mode="linear")[0, 0]
    torch.testing.assert_close(matrix.double() @ scores.flatten(), expected, atol=1e-6, rtol=0)


def test_stitching_matrices_are_banded_and_kept():
    matrix = stitching_matrix(2000, 18 * 12, Windows(336, 112), 3000)
    assert (matrix != 0).sum(1).max() < 0.1 * matrix.shape[1]
    assert stitching_matrix(2000, 18 * 12, Windows(336, 112), 3000) is matrix


# The stream


class Scorer:
    """Gives each window's mean colour as its scores, and remembers the batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, crops):
        self.batches.append(tuple(crops.shape))
        return F.adaptive_avg_pool2d(crops, (2, 3))  # (B, 3, 2, 3): three queries


def pictures(sizes, taken):
    for index, (height, width) in enumerate(sizes):
        taken.append(index)
        yield torch.full((3, height, width), index / 10)


def test_a_mosaic_holds_all_windows_in_their_places():
    picture = torch.arange(8.0)[:, None] * 10 + torch.arange(12.0)  # (8, 12)
    (mosaic,) = mosaics(lambda crops: crops[:, :1], [picture.expand(3, 8, 12)], Windows(4, 4, 1), GREY, 4)
    assert mosaic.size == (8, 12)
    assert torch.equal(mosaic.scores[:, 0], picture)  # windows without overlap: the picture itself


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_pictures_in_order_with_their_own_scores(batch):
    sizes = [(10, 10), (10, 16), (6, 10), (7, 7), (22, 10), (10, 10), (10, 10)]
    scorer, windows = Scorer(), Windows(10, 6, 1)
    found = list(mosaics(scorer, pictures(sizes, []), windows, GREY, batch))
    assert [mosaic.size for mosaic in found] == sizes
    for index, (mosaic, size) in enumerate(zip(found, sizes, strict=True)):
        rows, columns = len(windows.starts(size[0])), len(windows.starts(size[1]))
        assert mosaic.scores.shape == (2 * rows, 3, 3 * columns)
        torch.testing.assert_close(mosaic.scores, torch.full_like(mosaic.scores, index / 10))
    assert max(shape[0] for shape in scorer.batches) <= batch
    assert sum(shape[0] for shape in scorer.batches) == sum(windows.count(size) for size in sizes)


def test_windows_of_several_pictures_share_batches():
    scorer = Scorer()
    list(mosaics(scorer, pictures([(10, 16)] * 5, []), Windows(10, 6, 1), GREY, 4))  # two windows each
    assert [shape[0] for shape in scorer.batches] == [4, 4, 2]


def test_pictures_are_taken_only_as_batches_need_them():
    taken = []
    stream = mosaics(Scorer(), pictures([(10, 10)] * 20, taken), Windows(10, 6, 1), GREY, 3)
    assert taken == []
    for number in range(1, 16):
        next(stream)
        assert max(taken) + 1 <= 3 * -(-number // 3) + 1  # the batches so far, and the one that showed they were full
    assert max(taken) < 16


def test_no_pictures():
    assert list(mosaics(Scorer(), [], Windows(), GREY, 4)) == []


# The decision


def decided(scores, **options):
    (mosaic,) = mosaics(lambda crops: scores[None], [torch.zeros(3, *scores.shape[1:])], Windows(0, 1), GREY, 1)
    owners = torch.tensor(options.pop("owners", range(len(scores))))
    return decide(mosaic, Windows(0, 1), scores.shape[1:], Decision(owners, **options), range(int(owners.max()) + 1))


def test_softmax_over_all_queries_and_the_best_of_a_class():
    scores = torch.rand(5, 7, 9, generator=torch.Generator().manual_seed(0))
    owners = [1, 0, 2, 1, 0]
    labels, confidence, kept = decided(scores, scale=8.0, owners=owners)
    softmax = (scores * 8).softmax(0)
    expected = torch.stack([softmax[[1, 4]].amax(0), softmax[[0, 3]].amax(0), softmax[2]])
    assert torch.equal(labels, expected.argmax(0)) and labels.dtype == torch.int64
    torch.testing.assert_close(confidence, expected.amax(0))
    torch.testing.assert_close(torch.stack([kept[k] for k in range(3)]), expected)


def test_below_the_threshold_the_label_is_0():
    scores = torch.tensor([[[0.0, 0.0, 0.0]], [[1.0, 0.1, 0.01]]])
    probability = torch.softmax(scores, 0)[1, 0]
    for threshold, expected in ((0.0, [1, 1, 1]), (float(probability[1]), [1, 1, 0]), (0.9, [0, 0, 0])):
        labels, confidence, _ = decided(scores, scale=1.0, threshold=threshold - 1e-7 if threshold else 0.0)
        assert labels[0].tolist() == expected
        torch.testing.assert_close(confidence[0], probability)


def test_the_first_of_equals_wins():
    labels, _, _ = decided(torch.zeros(4, 2, 3), owners=[2, 0, 1, 3])
    assert (labels == 2).all()


def test_large_scores_do_not_overflow():
    _, confidence, _ = decided(torch.tensor([[[0.0]], [[30.0]]]), scale=40.0)
    assert confidence.item() == 1
