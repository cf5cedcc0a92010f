"""From scores to labels: the rule, held against the slow way, and a head that uses all of it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from largest_tensors import Shapes
from scored import score_images

from proxyclip.errors import InputError
from proxyclip.labels import (
    ACCELERATOR_TILE,
    CPU_TILE,
    LabelRule,
    decide_labels,
    small_classes,
)
from proxyclip.windows import Batches, SlidingWindows, View, WindowScores


def one_window(scores):
    """Scores (Q, H, W) of the whole image as one window."""
    view = View(scores.permute(1, 0, 2), SlidingWindows(0, 1), scores.shape[1:])
    return WindowScores((view,))


def decided(scores, **options):
    found = one_window(scores)
    owners = torch.tensor(options.pop("owners", range(len(scores))))
    return decide_labels(found, scores.shape[1:], LabelRule(**options), owners, keep=range(int(owners.max()) + 1))


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


@pytest.mark.parametrize("first", [0, 1])
def test_large_scores_in_blocks_do_not_overflow(first):
    scores = torch.tensor([[[30.0 * (1 - first)]], [[30.0 * first]]])
    found = decide_labels(one_window(scores), (1, 1), LabelRule(scale=40.0), torch.arange(2), tile=(1, 1, 1))
    assert found.labels.item() == first and found.confidence.item() == 1


def test_without_a_softmax_scores_below_0_are_below_the_threshold():
    scores = torch.tensor([[[-2.0, -2.0]], [[-1.0, 1.0]]])
    assert decided(scores, activation="none")[0].tolist() == [[0, 1]]


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
    labels, confidence, _ = decide_labels(one_window(scores), (7, 9), rule, owners, subtract=subtract)
    best, expected = (2 * scores - subtract[:, None, None]).max(0)
    assert torch.equal(labels, expected)
    torch.testing.assert_close(confidence, best)


def slowly_ruled(scores, owners, rule):
    """SCLIP's order: softmax, the best name of a class, small classes to zero, argmax, and last the threshold."""
    scaled, nothing = (scores * rule.scale, float("-inf")) if rule.activation == "none" else (None, 0.0)
    decided = (scores * rule.scale).softmax(0) if scaled is None else scaled  # (Q, H, W)
    owners = torch.tensor(owners)
    classes = torch.stack([decided[owners == index].amax(0) for index in range(int(owners.max()) + 1)])  # (K, H, W)
    labels = classes.argmax(0)
    objects = int((labels > 0).sum())
    for index in range(1, len(classes)):
        if int((labels == index).sum()) <= rule.area * objects:
            classes[index] = nothing
    best, labels = classes.max(0)
    return labels.where(best >= rule.threshold, 0), best, classes


@pytest.mark.parametrize("queries", [1, 2, 4])
@pytest.mark.parametrize(
    "rule",
    [
        LabelRule(scale=20.0, threshold=0.4),
        LabelRule(scale=20.0, threshold=0.3, area=0.2),
        LabelRule(activation="none", area=0.2, threshold=0.01),
        LabelRule(scale=3.0, window_sigmoid=True, activation="none"),
    ],
    ids=str,
)
@pytest.mark.parametrize("subtract", [None, torch.tensor([0.0, 0.2, 0, 0, 0.1, 0, 0.3])], ids=["", "subtract"])
def test_blocks_of_queries_make_no_difference(rule, queries, subtract):
    scores, owners = one_window(blobs(7, 23, 31, 1)), torch.tensor([0, 0, 1, 2, 2, 3, 4])
    expected = decide_labels(scores, (23, 31), rule, owners, subtract=subtract, keep=range(5), tile=(10**6, 13, 7))
    found = decide_labels(
        scores, (23, 31), rule, owners, subtract=subtract, keep=range(5), tile=(queries * 13 * 5, 13, queries)
    )
    assert torch.equal(found.labels, expected.labels) and len(found.labels.unique()) > 1
    torch.testing.assert_close(found.confidence, expected.confidence, atol=1e-6, rtol=0)
    for index in range(5):
        torch.testing.assert_close(found.class_scores[index], expected.class_scores[index], atol=1e-6, rtol=0)


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_the_first_of_equals_wins_in_any_block(queries):
    scores = torch.zeros(4, 2, 3)
    scores[1:, 1] = 1
    labels = decide_labels(one_window(scores), (2, 3), LabelRule(), torch.arange(4), tile=(100, 5, queries)).labels
    assert labels.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    "rule", [LabelRule(), LabelRule(threshold=0.2), LabelRule(area=0.3), LabelRule(activation="none")]
)
def test_labels_are_the_same_without_confidence(rule):
    scores, owners = one_window(blobs(5, 23, 31, 2)), torch.arange(5)
    expected = decide_labels(scores, (23, 31), rule, owners)
    found = decide_labels(scores, (23, 31), rule, owners, confidence=False)
    refined = decide_labels(scores, (23, 31), rule, owners, refine=lambda maps: maps, confidence=False)
    assert torch.equal(found.labels, expected.labels) and torch.equal(refined.labels, expected.labels)
    assert found.confidence is None and refined.confidence is None and expected.confidence is not None
    kept = decide_labels(scores, (23, 31), rule, owners, keep=[1], confidence=False).class_scores[1]
    torch.testing.assert_close(kept, decide_labels(scores, (23, 31), rule, owners, keep=[1]).class_scores[1])


def test_without_confidence_and_threshold_nothing_is_exponentiated(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exp_", None)
    decide_labels(one_window(blobs(5, 23, 31, 2)), (23, 31), LabelRule(), torch.arange(5), confidence=False)


@pytest.mark.parametrize(("classes", "dtype"), [(256, torch.uint8), (257, torch.int32)])
def test_labels_have_the_type_of_the_class_indices(classes, dtype):
    owners = torch.arange(classes, dtype=dtype)
    scores = torch.zeros(classes, 2, 3)
    scores[-1] = 1
    for area in (0.0, 0.9):
        rule = LabelRule(area=area)
        maps = decide_labels(one_window(scores), (2, 3), rule, owners)
        refined = decide_labels(one_window(scores), (2, 3), rule, owners, refine=lambda maps: maps)
        assert maps.labels.dtype == refined.labels.dtype == dtype and maps.labels.eq(classes - 1).all()
        assert torch.equal(refined.labels, maps.labels)


def blobs(queries, height, width, seed):
    """Score maps (Q, H, W) that vary slowly: small classes have some pixels, and those have a next best class."""
    coarse = torch.randn(1, queries, 4, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0] / 20


@pytest.mark.parametrize("tile", [None, (1, 5), (200, 13)])
@pytest.mark.parametrize(("activation", "threshold"), [("softmax", 0.0), ("softmax", 0.5), ("none", 0.4)])
@pytest.mark.parametrize("seed", range(3))
def test_small_classes_get_no_pixels(seed, activation, threshold, tile):
    scores, owners = blobs(7, 23, 31, seed), [0, 0, 1, 2, 2, 3, 4]
    rule = LabelRule(scale=20.0, activation=activation, threshold=threshold, area=0.2)
    found = decide_labels(one_window(scores), (23, 31), rule, torch.tensor(owners), keep=range(5), tile=tile)
    labels, confidence, classes = slowly_ruled(scores, owners, rule)
    before, after = (slowly_ruled(scores, owners, replace(rule, area=area, threshold=-1e9))[0] for area in (0, 0.2))
    assert after[before != after].any()  # some pixels of a small class go to another object class
    assert threshold == 0 or not torch.equal(labels, after)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.confidence, confidence)
    torch.testing.assert_close(torch.stack([found.class_scores[index] for index in range(5)]), classes)


def strips(*counts, strength=1.0):
    """Scores (K, 1, W): each class is clearly the best one for so many pixels."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return F.one_hot(labels, len(counts)).T[:, None].float() * strength


@pytest.mark.parametrize("pixels", [1, 3, 7, 11])
def test_a_class_with_exactly_the_share_is_small(pixels):
    """The share is of all pixels with labels other than 0."""
    exactly, more = (decided(strips(5, 9 * pixels - one, pixels + one), area=0.1) for one in (0, 1))
    assert exactly[0].unique().tolist() == [0, 1] and exactly[2][2].eq(0).all()
    assert more[0].unique().tolist() == [0, 1, 2]


def test_the_exact_share_of_many_pixels():
    owners = torch.arange(3)
    for pixels in (13, 1999, 40_009, 700_001):
        labels = torch.arange(3).repeat_interleave(torch.tensor([5, 9 * pixels, pixels]))
        assert small_classes(labels, 0.1, owners).tolist() == [False, False, True]
        assert not small_classes(torch.cat([labels, torch.tensor([2])]), 0.1, owners).any()


def test_without_any_pixel_of_an_object_all_objects_are_small():
    labels, confidence, maps = decided(strips(20, 0, 0), area=0.1, scale=3.0)
    assert labels.eq(0).all() and maps[1].eq(0).all() and maps[2].eq(0).all()
    torch.testing.assert_close(confidence, strips(20, 0, 0).mul(3).softmax(0)[0])


def test_areas_are_counted_before_the_threshold_and_pixels_below_it_afterwards_get_label_0():
    scores = strips(4, 30, 10, 2)
    scores[1, 0, -2:] = 0.9  # the next best class of the last two pixels, which are a small class
    scores[:, 0, 4:34] *= 0.1  # class 1 is uncertain wherever it is the best one, and counts all the same
    rule = {"scale": 3.0, "area": 0.1}
    sure, unsure = (decided(scores, threshold=threshold, **rule)[0][0] for threshold in (0.0, 0.4))
    assert sure.bincount().tolist() == [4, 32, 10]
    assert unsure.bincount().tolist() == [4 + 30, 2, 10]
    assert decided(scores, threshold=0.5, **rule)[0][0].bincount().tolist() == [4 + 32, 0, 10]


@pytest.mark.parametrize("area", [-0.1, 1.0, float("nan")])
def test_an_area_that_is_no_share(area):
    with pytest.raises(InputError, match=f"area is {area}; choose a share of pixels, at least 0 and below 1"):
        LabelRule(area=area)


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
    (found,) = score_images(sigmoid_windows, [image], windows, torch.zeros(3), Batches(3))
    expected = slowly(image, windows, size)
    rule = LabelRule(window_sigmoid=True, activation="none")
    labels, confidence, maps = decide_labels(found, size, rule, torch.arange(4), keep=range(4), tile=tile)
    torch.testing.assert_close(torch.stack([maps[k] for k in range(4)]), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(confidence, expected.amax(0), atol=2e-6, rtol=0)
    clear = expected.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5
    assert torch.equal(labels[clear], expected.argmax(0)[clear])


def test_windows_and_a_global_view_by_their_weights():
    """As CAT-Seg does: the global view is seen at another size, and its sigmoid is taken there."""
    image, windows = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), SlidingWindows(40, 24)
    (found,) = score_images(sigmoid_windows, [image], windows, torch.zeros(3), Batches(4))
    small = F.interpolate(image[None], (40, 40), mode="bilinear")
    whole = sigmoid_windows(small)[0]  # (4, 10, 10)
    view = View(whole.permute(1, 0, 2), SlidingWindows(0, 1), (64, 64), weight=0.25, window_size=(40, 40))
    views = WindowScores((View(found.views[0].scores, windows, (64, 64), weight=0.75), view))
    rule = LabelRule(window_sigmoid=True, activation="none")
    _, _, maps = decide_labels(views, (50, 77), rule, torch.arange(4), keep=range(4), tile=(900, 20))

    lifted = F.interpolate(F.interpolate(whole[None], (40, 40), mode="bilinear").sigmoid(), (64, 64), mode="bilinear")
    mixed = 0.75 * slowly(image, windows, (64, 64)) + 0.25 * lifted[0]
    expected = F.interpolate(mixed[None], (50, 77), mode="bilinear")[0]
    torch.testing.assert_close(torch.stack([maps[k] for k in range(4)]), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("confidence", "bytes_per_pixel"), [(True, 5), (False, 1)])
def test_beyond_the_maps_there_are_tiles_alone(confidence, bytes_per_pixel):
    scores = WindowScores((View(torch.rand(84, 20, 84), SlidingWindows(336, 112), (448, 448)),))
    owners = torch.arange(20, dtype=torch.uint8)
    with Shapes() as shapes:
        found = decide_labels(scores, (1500, 1500), LabelRule(), owners, confidence=confidence)
    maps = [part for part in (found.labels, found.confidence) if part is not None]
    assert sum(part.nbytes for part in maps) == bytes_per_pixel * 1500**2
    others = [torch.Size(shape).numel() for shape in shapes.found if shape != (1500, 1500)]
    assert max(others) < 1.2 * CPU_TILE.scores < 1500**2  # tiles, and some whole rows of the maps


def test_an_accelerator_holds_no_tile_of_all_queries():
    device = torch.device("meta")
    scores = WindowScores((View(torch.rand(84, 847, 84, device=device), SlidingWindows(336, 112), (448, 448)),))
    with Shapes() as shapes:
        decide_labels(scores, (683, 1024), LabelRule(threshold=0.1), torch.zeros(847, dtype=torch.int32, device=device))
    full = [shape for shape in shapes.found if torch.Size(shape).numel() > ACCELERATOR_TILE.scores]
    assert full == [] and 2 * ACCELERATOR_TILE.scores < 84 * 847 * 512


def test_memory_behind_a_sigmoid_is_bounded():
    """600 classes at 700 × 900 would be 1.5 GB at once."""
    import tracemalloc  # noqa: F401  (torch's memory is measured by the peak of the process)
    from resource import RUSAGE_SELF, getrusage

    image = torch.rand(3, 350, 450)
    (found,) = score_images(
        lambda crops: torch.rand(len(crops), 600, 8, 8), [image], SlidingWindows(256, 213), torch.zeros(3), Batches(4)
    )
    rule = LabelRule(window_sigmoid=True, activation="none")
    before = getrusage(RUSAGE_SELF).ru_maxrss
    decide_labels(found, (700, 900), rule, torch.arange(600))
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("block", [10**9, 2 * 23 * 31, 1])
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("area", [0.0, 0.25])
def test_summed_names(block, refined, area):
    """Probabilities of a class's names are added up; labels are the classes with the highest sums."""
    names, rule = (1, 3, 2, 1), LabelRule(scale=3.0, synonyms="sum", threshold=0.35, area=area)
    scores, owners = 60 * blobs(7, 23, 31, 1), torch.tensor([0, 1, 1, 1, 2, 2, 3])
    probabilities = (scores * 3).softmax(0)  # (Q, H, W)
    sums = torch.stack([probabilities[owners == index].sum(0) for index in range(4)])  # (K, H, W)
    confidence, labels = sums.max(0)
    if area:
        pixels = labels.flatten().bincount(minlength=4)
        small = pixels <= area * pixels[1:].sum()
        assert small[1:].any()
        confidence, labels = sums.masked_fill((small & (torch.arange(4) > 0))[:, None, None], -1).max(0)
    labels = labels.masked_fill(confidence < 0.35, 0)
    found = decide_labels(
        one_window(scores), (23, 31), rule, owners, names_per_class=names, keep=range(4),
        refine=(lambda maps: maps) if refined else None, block=block, tile=(block, 13, 3),
    )  # fmt: skip
    assert torch.equal(found.labels, labels) and len(labels.unique()) >= 3
    torch.testing.assert_close(found.confidence, confidence, atol=1e-5, rtol=0)
    if not area:
        kept = torch.stack([found.class_scores[index] for index in range(4)])
        torch.testing.assert_close(kept, sums, atol=1e-5, rtol=0)
