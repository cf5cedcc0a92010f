"""From scores to labels: the rule, held against the slow way, and a head that uses all of it."""

import pytest
import torch
import torch.nn.functional as F

from proxyclip.errors import InputError
from proxyclip.label_rule import LabelRule, label_map
from proxyclip.sliding import SlidingWindows, score_images
from proxyclip.stitching import View, WindowScores


def one_window(scores):
    """Scores (Q, H, W) of the whole image as one window."""
    view = View(scores.permute(1, 0, 2), SlidingWindows(0, 1), scores.shape[1:])
    return WindowScores((view,))


def decided(scores, **options):
    found = one_window(scores)
    owners = torch.tensor(options.pop("owners", range(len(scores))))
    return label_map(found, scores.shape[1:], LabelRule(**options), owners, keep=range(int(owners.max()) + 1))


def test_softmax_over_all_queries_and_the_best_of_a_class():
    scores = torch.rand(5, 7, 9, generator=torch.Generator().manual_seed(0))
    owners = [1, 0, 2, 1, 0]
    labels, confidence, maps = decided(scores, scale=8.0, owners=owners)
    softmax = (scores * 8).softmax(0)
    expected = torch.stack([softmax[[1, 4]].amax(0), softmax[[0, 3]].amax(0), softmax[2]])
    assert torch.equal(labels, expected.argmax(0)) and labels.dtype == torch.int64
    torch.testing.assert_close(confidence, expected.amax(0))
    torch.testing.assert_close(torch.stack([maps[k] for k in range(3)]), expected)


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


def test_without_a_softmax_the_confidence_is_the_score():
    scores = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    labels, confidence, maps = decided(scores, activation="none", threshold=0.5, owners=[0, 1, 1, 2, 3])
    classes = torch.stack([scores[0], scores[1:3].amax(0), scores[3], scores[4]])
    best, expected = classes.max(0)
    torch.testing.assert_close(confidence, best)
    torch.testing.assert_close(torch.stack([maps[k] for k in range(4)]), classes)
    assert torch.equal(labels, expected.where(best >= 0.5, 0))


def test_what_is_subtracted_from_some_queries():
    scores = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    owners, subtract = torch.arange(3), torch.tensor([0.0, 0.3, 0.1])
    rule = LabelRule(scale=2.0, activation="none")
    labels, confidence, _ = label_map(one_window(scores), (7, 9), rule, owners, subtract)
    best, expected = (2 * scores - subtract[:, None, None]).max(0)
    assert torch.equal(labels, expected)
    torch.testing.assert_close(confidence, best)


def test_an_unknown_activation():
    with pytest.raises(InputError, match='choose "softmax" or "none"'):
        LabelRule(activation="sigmoid")


def sigmoid_windows(crops):
    """(B, 3, c, c) -> four queries at a quarter of the resolution."""
    pooled = F.avg_pool2d(crops, 4)  # (B, 3, h, w)
    return torch.cat([pooled, pooled.mean(1, keepdim=True)], 1).sub(0.5).mul(12)


def slowly(image, windows, size, view_size=None):
    """The published order: upsample each window, sigmoid, cut the padding, average, resize: (Q, H, W)."""
    height, width = image.shape[1:]
    total, covered = torch.zeros(4, height, width), torch.zeros(height, width)
    for top in windows.starts(height):
        for left in windows.starts(width):
            side_h, side_w = windows.side(height), windows.side(width)
            crop = image[:, top : top + side_h, left : left + side_w][None]
            scores = F.interpolate(sigmoid_windows(crop), (side_h, side_w), mode="bilinear").sigmoid()[0]
            total[:, top : top + side_h, left : left + side_w] += scores
            covered[top : top + side_h, left : left + side_w] += 1
    return F.interpolate((total / covered)[None], size, mode="bilinear")[0]


@pytest.mark.parametrize("size", [(45, 61), (80, 33), (9, 120)])
@pytest.mark.parametrize("tile", [None, (1, 5), (400, 13)])
def test_a_sigmoid_of_each_window_before_they_are_averaged(size, tile):
    image, windows = torch.rand(3, 45, 61, generator=torch.Generator().manual_seed(0)), SlidingWindows(32, 13)
    (found,) = score_images(sigmoid_windows, [image], windows, torch.zeros(3), 3)
    expected = slowly(image, windows, size)
    rule = LabelRule(window_sigmoid=True, activation="none")
    labels, confidence, maps = label_map(found, size, rule, torch.arange(4), keep=range(4), tile=tile)
    torch.testing.assert_close(torch.stack([maps[k] for k in range(4)]), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(confidence, expected.amax(0), atol=2e-6, rtol=0)
    clear = expected.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5
    assert torch.equal(labels[clear], expected.argmax(0)[clear])


def test_windows_and_a_global_view_by_their_weights():
    """As CAT-Seg does: the global view is seen at another size, and its sigmoid is taken there."""
    image, windows = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), SlidingWindows(40, 24)
    (found,) = score_images(sigmoid_windows, [image], windows, torch.zeros(3), 4)
    small = F.interpolate(image[None], (40, 40), mode="bilinear")
    whole = sigmoid_windows(small)[0]  # (4, 10, 10)
    view = View(whole.permute(1, 0, 2), SlidingWindows(0, 1), (64, 64), weight=0.25, window_size=(40, 40))
    views = WindowScores((View(found.views[0].scores, windows, (64, 64), weight=0.75), view))
    rule = LabelRule(window_sigmoid=True, activation="none")
    _, _, maps = label_map(views, (50, 77), rule, torch.arange(4), keep=range(4), tile=(900, 20))

    lifted = F.interpolate(F.interpolate(whole[None], (40, 40), mode="bilinear").sigmoid(), (64, 64), mode="bilinear")
    mixed = 0.75 * slowly(image, windows, (64, 64)) + 0.25 * lifted[0]
    expected = F.interpolate(mixed[None], (50, 77), mode="bilinear")[0]
    torch.testing.assert_close(torch.stack([maps[k] for k in range(4)]), expected, atol=2e-6, rtol=0)


def test_memory_behind_a_sigmoid_is_bounded():
    """600 classes at 700 × 900 would be 1.5 GB at once."""
    import tracemalloc  # noqa: F401  (torch's memory is measured by the peak of the process)
    from resource import RUSAGE_SELF, getrusage

    image = torch.rand(3, 350, 450)
    (found,) = score_images(
        lambda crops: torch.rand(len(crops), 600, 8, 8), [image], SlidingWindows(256, 213), torch.zeros(3), 4
    )
    rule = LabelRule(window_sigmoid=True, activation="none")
    before = getrusage(RUSAGE_SELF).ru_maxrss
    label_map(found, (700, 900), rule, torch.arange(600))
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
