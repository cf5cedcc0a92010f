"""SC-CLIP against a slow, obvious implementation, and the bounds of what it accepts."""

from copy import deepcopy
from fractions import Fraction
from functools import cache

import numpy as np
import plain_clip
import pytest
import tiny_clip
import torch

from proxyclip.errors import InputError
from proxyclip.loading import plan
from proxyclip.methods.scclip import SCCLIP, Options, aggregated, highest, outlier_scores, repaired, similarity

SIZE, GRID = (43, 64), (5, 8)  # patches of 8 pixels, and some rows beyond


@cache
def clip():
    return tiny_clip.clip(vision={"layers": 12})


def model(**options) -> SCCLIP:
    return tiny_clip.model("scclip", clip=clip(), **{"min_similarity": 0.5} | options)


def crops(count: int = 2, size: tuple[int, int] = SIZE) -> torch.Tensor:
    images = [tiny_clip.photograph(*size, seed=seed) for seed in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def text() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(2)), dim=1)


def slow_outliers(points: torch.Tensor, neighbours: int, share: Fraction) -> tuple[list[float], list[int]]:
    """Scores of all points (N, D), and the indices of the outliers."""
    count, reach, nearest = len(points), [], []
    for i in range(count):
        order = sorted((float(((points[i] - points[j]) ** 2).sum()), j) for j in range(count) if j != i)[:neighbours]
        reach.append(order[-1][0])
        nearest.append([j for _, j in order])
    scores = [reach[i] * sum(1 / reach[j] for j in nearest[i]) / neighbours for i in range(count)]
    return scores, above_quantile(scores, share)


def above_quantile(scores: list[float], share: Fraction) -> list[int]:
    """Indices of the scores strictly above the linear quantile, without rounding."""
    ordered, rank = sorted(map(Fraction, scores)), (1 - share) * (len(scores) - 1)
    lower = rank.numerator // rank.denominator
    quantile = ordered[lower] + (rank - lower) * (ordered[min(lower + 1, len(scores) - 1)] - ordered[lower])
    return [index for index, score in enumerate(scores) if Fraction(score) > quantile]


def slow_repair(points: torch.Tensor, outliers: list[int], grid: tuple[int, int]) -> torch.Tensor:
    result = points.clone()
    for index in outliers:
        row, column = divmod(index, grid[1])
        near = []
        for r in range(max(row - 1, 0), min(row + 2, grid[0])):
            for c in range(max(column - 1, 0), min(column + 2, grid[1])):
                if r * grid[1] + c not in outliers:
                    near.append(points[r * grid[1] + c])
        if near:
            result[index] = sum(near) / len(near)
    return result


def slow_similarity(points: torch.Tensor, least: float) -> torch.Tensor:
    unit = plain_clip.unit(points)
    found = torch.stack([torch.stack([a @ b for b in unit]) for a in unit])
    return torch.where(found < least, 0.0, found)


def slow_aggregation(points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.stack([sum(w * p for w, p in zip(row, points, strict=True)) / (row.sum() + 1e-6) for row in weights])


def slow_scores(crop: torch.Tensor, options: Options) -> torch.Tensor:
    """(Q, h, w)."""
    found, block = plain_clip.outputs(clip(), crop), clip().blocks[-1]
    last, middle, early = found[11], found[options.middle_block], found[options.early_block]
    _, outliers = slow_outliers(last[1:], options.neighbours, Fraction(str(options.outlier_share)))
    assert outliers
    features = slow_repair(middle[1:], outliers, GRID)
    alike, near = slow_similarity(features, options.min_similarity), slow_similarity(early[1:], options.min_similarity)
    every = slow_similarity(features, -2.0)
    logits = 3 * (every - every.mean())
    proxy = torch.where(logits < 0, 0.0, logits.exp())
    proxy = proxy / proxy.sum(1, keepdim=True)

    def through_the_last_block(patches: torch.Tensor) -> torch.Tensor:
        mixed = [(proxy + plain_clip.weights(k, k)) / 2 @ v for _, k, v in plain_clip.heads(block, patches)]
        return plain_clip.joined(block, mixed)

    calm = slow_aggregation(slow_repair(last[1:], outliers, GRID), alike)
    once = through_the_last_block(calm) + options.class_weight * last[0]
    result = slow_aggregation(once, near)
    total = sum(found[number] for number in options.level_blocks)
    again = through_the_last_block(total[1:]) + options.class_weight * total[0]
    result = result + slow_aggregation(again, near)
    patches = plain_clip.unit(plain_clip.finished(clip(), result))
    return (text().double() @ patches.T).unflatten(1, GRID)


OTHERS = {"middle_block": 7, "early_block": 6, "level_blocks": (3, 5), "neighbours": 12, "outlier_share": 0.2}


@pytest.mark.parametrize("changes", [{}, OTHERS], ids=["published", "others"])
@torch.inference_mode()
def test_entry_by_entry(changes):
    scclip = model(**changes)
    found = scclip.window_scores(crops(), text())
    assert found.shape == (2, 5, *GRID) and found.dtype == torch.float32
    for crop, scores in zip(crops(), found, strict=True):
        torch.testing.assert_close(scores.double(), slow_scores(crop, scclip.options), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_windows_do_not_depend_on_each_other():
    scclip, given = model(), crops(3)
    apart = torch.cat([scclip.window_scores(crop[None], text()) for crop in given])
    torch.testing.assert_close(scclip.window_scores(given, text()), apart, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_in_half_precision():
    exact = model().window_scores(crops(), text())
    half = tiny_clip.model("scclip", clip=deepcopy(clip()), min_similarity=0.5)
    found = half.set_precision(torch.bfloat16).window_scores(crops(), text())
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert torch.corrcoef(torch.stack([exact.flatten(), found.flatten()]))[0, 1] > 0.95


def test_outliers_one_by_one():
    points = torch.randn(2, 37, 6, generator=torch.Generator().manual_seed(0)) + 100
    points[0, 9] += 8
    found = outlier_scores(points, 30)
    for window, scores, outliers in zip(points, found, highest(found, 0.05), strict=True):
        expected, indices = slow_outliers(window.double(), 30, Fraction(1, 20))
        torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), atol=0, rtol=1e-4)
        assert outliers.nonzero().flatten().tolist() == indices
    assert highest(found, 0.05)[0, 9]


def test_the_quantile_is_exact_at_whole_ranks():
    generator = torch.Generator().manual_seed(0)
    for count in (*range(31, 130), 361, 441, 1024):
        scores = torch.rand(1, count, generator=generator)
        for share in ("0.05", "0.1", "0.3"):
            expected = above_quantile(scores[0].tolist(), Fraction(share))
            assert highest(scores, float(share))[0].nonzero().flatten().tolist() == expected, (count, share)


def test_patches_that_coincide_are_no_outliers():
    scores = outlier_scores(torch.full((2, 40, 5), 0.3), 30)
    assert scores.isfinite().all() and not highest(scores, 0.05).any()


def test_repair_on_a_grid_that_is_not_square():
    points = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1))
    bad = [[0, 7, 15, 39], [9, 10, 11, 17, 18, 19, 25, 26, 27]]  # borders; and one, 18, without sound neighbours
    outliers = torch.zeros(2, 40, dtype=torch.bool)
    for flags, indices in zip(outliers, bad, strict=True):
        flags[indices] = True
    expected = torch.stack([slow_repair(p, indices, GRID) for p, indices in zip(points, bad, strict=True)])
    found = repaired(points, outliers, GRID)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(found[1, 18], points[1, 18]) and torch.equal(found[~outliers], points[~outliers])


def test_aggregation_without_any_weight_gives_zero():
    points = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    weights = similarity(points, 0.2)
    weights[0, 4] = 0
    expected = torch.stack([slow_aggregation(p, w) for p, w in zip(points, weights, strict=True)])
    found = aggregated(points, weights)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not found[0, 4].any()


@torch.inference_mode()
def test_windows_of_few_patches_are_refused_before_they_are_looked_at():
    scclip = model()
    scclip.window_scores(crops(1, (8, 248)), text())  # 31 patches
    scclip.clip.states = None  # whoever walks the encoder fails
    try:
        with pytest.raises(InputError, match="more than 30 patches in a window, and there are 5x6;"):
            scclip.window_scores(crops(1, (47, 48)), text())
    finally:
        del scclip.clip.states


@pytest.mark.parametrize(
    ("options", "grid"),
    [({"crop": 40, "stride": 20, "multiple": 8}, "5x5"), ({"crop": 40, "stride": 20, "short_side": 16}, None)]
    + [({"crop": 48, "stride": 20, "multiple": 8, "short_side": 24}, "3x6"), ({"crop": 0}, None)],
    ids=str,
)
def test_few_patches_are_refused_before_weights_are_read(tmp_path, options, grid):
    folder = tiny_clip.save_folder(tmp_path / "clip", vision={"layers": 6})
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    if grid is None:
        plan(clip=folder, method="scclip", **options)
        return
    with pytest.raises(InputError, match=f"there are {grid};"):
        plan(clip=folder, method="scclip", **options)


def test_a_shallow_clip_is_refused_before_its_weights_are_read(tmp_path):
    folder = tiny_clip.save_folder(tmp_path / "clip")  # of 2 blocks
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="SC-CLIP reads block 10 of 12 .* 2 blocks is too shallow"):
        plan(clip=folder, method="scclip")


@pytest.mark.parametrize(
    "given",
    [{"neighbours": 0}, {"outlier_share": 0.0}, {"outlier_share": 1.0}, {"middle_block": 12}, {"early_block": 0}]
    + [{"level_blocks": ()}, {"level_blocks": (4, 12)}],
    ids=str,
)
def test_options_that_make_no_sense(given):
    with pytest.raises(InputError, match=next(iter(given))):
        Options(**given)
