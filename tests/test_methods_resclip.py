"""ResCLIP against a slow, obvious implementation, and the bounds of what it accepts."""

from collections import Counter
from copy import deepcopy
from functools import cache

import numpy as np
import plain_clip
import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from host_traffic import DEVICE, host_traffic

import proxyclip
from proxyclip.errors import InputError
from proxyclip.loading import plan
from proxyclip.methods._training_free import scaled_block
from proxyclip.methods.resclip import Options, ResCLIP, affinity, patch_labels, unbroken, weighted
from proxyclip.refine import Guide
from proxyclip.refine.pamr import PAMR
from proxyclip.refine.pamr import Options as PamrOptions

SIZE, PATCH, QUERIES = (43, 56), 8, 4  # 5 × 7 patches, and some rows beyond
SETTINGS = {"std": 1.5, "feedback_threshold": 0.5, "residual_weight": 0.4, "feedback_scale": 2.5}


@cache
def clip():
    return tiny_clip.clip(vision={"layers": 12})


def model(**options) -> ResCLIP:
    return tiny_clip.model("resclip", clip=clip(), **SETTINGS | options)


def crops(count: int = 2) -> torch.Tensor:
    images = [tiny_clip.photograph(*SIZE, seed=seed) for seed in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def text() -> torch.Tensor:
    """Unit vectors that tell the patches of a window apart, so that its labels differ."""
    patches = F.normalize(model().embed(crops()).flatten(2).mT, dim=2)  # (2, N, E)
    return F.normalize((patches - patches.mean(1, keepdim=True)).flatten(0, 1)[[3, 20, 40, 66]], dim=1)  # (Q, E)


def slow_omega(places: list, std: float) -> torch.Tensor:
    bias = torch.zeros(len(places) + 1, len(places) + 1, dtype=torch.float64)
    for i, (row, column) in enumerate(places):
        for j, (other, another) in enumerate(places):
            bias[i + 1, j + 1] = np.exp(-((row - other) ** 2 + (column - another) ** 2) / (2 * std**2))
    return bias


def slow_labels(crop: torch.Tensor, cosines: torch.Tensor, options: Options) -> np.ndarray:
    """(h, w) from the cosines (Q, h, w) of the first pass."""
    maps = F.interpolate(cosines[None].float(), crop.shape[-2:], mode="bilinear")[0]
    refined = PAMR(PamrOptions())(lambda queries: maps[queries], Guide(crop, None))(slice(None))
    probability, best = (options.logit_scale * refined).softmax(0).max(0)
    best[probability < options.feedback_threshold] = 0
    labels = np.zeros(cosines.shape[1:], dtype=int)
    for row, column in np.ndindex(labels.shape):
        pixels = best[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].flatten().tolist()
        most = max(Counter(pixels).values())
        labels[row, column] = min(label for label, count in Counter(pixels).items() if count == most)
    return labels


def on_the_way(labels: np.ndarray, start: tuple, end: tuple) -> bool:
    """Whether the line has the label of its start, walked at the pace of the longest line."""
    share = torch.linspace(0, 1, max(labels.shape)).numpy()
    steps = max(abs(start[0] - end[0]), abs(start[1] - end[1]))
    for t in share[: steps + 1]:
        row, column = (
            int(np.round(np.float32(a) * (1 - t) + np.float32(b) * t)) for a, b in zip(start, end, strict=True)
        )
        if labels[row, column] != labels[start]:
            return False
    return True


def slow_affinity(labels: np.ndarray, std: float, path_rule: bool) -> torch.Tensor:
    places, farthest = list(np.ndindex(labels.shape)), max(labels.shape) - 1
    count = len(places)
    agree = np.zeros((count, count))
    for i, start in enumerate(places):
        for j, end in enumerate(places):
            if labels[start] == labels[end]:
                steps = max(abs(start[0] - end[0]), abs(start[1] - end[1]))
                straight = not path_rule or on_the_way(labels, start, end)
                agree[i, j] = 1 if straight else np.exp(-steps / farthest)
    taps = min(count, int(6 * std + 1))
    reach = (taps if taps % 2 else taps + 1) // 2
    kernel = {offset: np.exp(-(offset**2) / (2 * std**2)) for offset in range(-reach, reach + 1)}
    total = sum(kernel.values())
    smooth = np.zeros((count, count))
    for i, j in np.ndindex(count, count):
        near = [(offset, j + offset) for offset in kernel if 0 <= j + offset < count]
        smooth[i, j] = sum(kernel[offset] * agree[i, place] for offset, place in near) / total
    result = np.zeros((count + 1, count + 1))
    result[1:, 1:] = smooth / (smooth.sum(1, keepdims=True) + 1e-8)
    return torch.from_numpy(result)


def slow_scores(crop: torch.Tensor, queries: torch.Tensor, options: Options) -> tuple[torch.Tensor, np.ndarray | None]:
    """(Q, h, w) and the labels of the first pass."""
    outputs = plain_clip.outputs(clip(), crop)
    grid, last = (SIZE[0] // PATCH, SIZE[1] // PATCH), clip().blocks[-1]
    earlier = [plain_clip.heads(clip().blocks[number - 1], outputs[number - 1]) for number in options.blocks]
    omega = slow_omega(list(np.ndindex(grid)), options.std)

    def scores(bias: torch.Tensor, factor: float) -> torch.Tensor:
        mixed = []
        for head, (_, key, value) in enumerate(plain_clip.heads(last, outputs[-1])):
            residual = sum(plain_clip.weights(*block[head][:2]) for block in earlier) / len(earlier)
            own = plain_clip.weights(key, key, bias, factor)
            share = options.residual_weight
            mixed.append(options.residual_scale * ((1 - share) * own + share * residual) @ value)
        patches = plain_clip.finished(clip(), plain_clip.joined(last, mixed))[1:]
        return (queries.double() @ plain_clip.unit(patches).T).unflatten(1, grid)

    first = scores(omega, 1.0)
    if not options.feedback:
        return first, None
    labels = slow_labels(crop, first, options)
    weights = slow_affinity(labels, options.std, options.path_rule)
    half = (weights / weights.max()).numpy().astype(np.float16)
    half = torch.from_numpy((half.astype(np.float32) * np.float32(options.feedback_weight)).astype(np.float16)).double()
    factor = options.feedback_scale * (1 - options.feedback_weight)
    return scores(options.feedback_scale * half + omega, factor), labels


@pytest.mark.parametrize(
    "changes", [{}, {"path_rule": False}, {"feedback": False}, {"blocks": (2, 7, 11), "feedback": False}], ids=str
)
@torch.inference_mode()
def test_entry_by_entry(changes):
    resclip, given, queries = model(**changes), crops(), text()
    found = resclip.window_scores(given, queries)
    assert found.shape == (2, QUERIES, 5, 7) and found.dtype == torch.float32
    for crop, scores in zip(given, found, strict=True):
        expected, labels = slow_scores(crop, queries, resclip.options)
        torch.testing.assert_close(scores.double(), expected, atol=2e-5, rtol=0)
        assert labels is None or len(np.unique(labels)) >= 2


@torch.inference_mode()
def test_each_part_matters():
    """Each pair of neighbours in this list differs by far more than the tolerance above."""
    ways = [{}, {"path_rule": False}, {"feedback": False}, {"feedback": False, "residual_weight": 0.0}]
    scores = [model(**way).window_scores(crops(), text()) for way in ways]
    for one, other in zip(scores, scores[1:], strict=False):
        assert (one - other).abs().amax((1, 2, 3)).min() > 1e-3


@torch.inference_mode()
def test_windows_do_not_depend_on_each_other():
    resclip, given, queries = model(), crops(3), text()
    apart = torch.cat([resclip.window_scores(crop[None], queries) for crop in given])
    torch.testing.assert_close(resclip.window_scores(given, queries), apart, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_in_half_precision():
    exact = model().window_scores(crops(), text())
    queries = text()
    half = tiny_clip.model("resclip", clip=deepcopy(clip()), **SETTINGS).set_precision(torch.bfloat16)
    found = half.window_scores(crops(), queries)
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert torch.corrcoef(torch.stack([exact.flatten(), found.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["resclip", "scclip"])
def test_an_accelerator_does_not_wait(method, dtype):
    on_device = proxyclip.load("mini", method=method, device="cpu").set_precision(dtype).to(DEVICE)
    given, queries = torch.rand(2, 3, 72, 56).to(DEVICE), torch.zeros(3, 128, device=DEVICE)
    on_device.window_scores(given, queries)  # the first call of a size takes its tables from the host
    with host_traffic() as found:
        scores = on_device.window_scores(given, queries)
    assert found == []
    assert scores.shape == (2, 3, 9, 7) and scores.dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (4, 3), (9, 5)])
def test_paths_and_affinity(shape):
    labels = np.random.default_rng(sum(shape)).integers(0, 2, shape)
    places = list(np.ndindex(shape))
    expected = torch.tensor([[on_the_way(labels, i, j) for j in places] for i in places])
    given = torch.from_numpy(labels)
    assert torch.equal(unbroken(given).flatten(2).flatten(0, 1), expected)
    for rule in (True, False):
        exact = slow_affinity(labels, 1.2, rule) if len(places) > 1 else torch.tensor([[0.0, 0.0], [0.0, 1.0]])
        torch.testing.assert_close(affinity(given, 1.2, rule).double(), exact.double(), atol=1e-6, rtol=0)


def test_feedback_is_rounded_to_half_precision_twice():
    given = affinity(torch.tensor([[0, 0, 1, 1, 2], [0, 2, 2, 1, 2]]), 1.2, True)
    once = (given / given.max()).numpy().astype(np.float16)
    twice = (once.astype(np.float32) * np.float32(0.7)).astype(np.float16)
    assert (once.astype(np.float32) * np.float32(0.7) != twice).any()
    assert np.array_equal(weighted(given, 0.7).numpy(), twice.astype(np.float32))


def test_a_patch_takes_the_most_frequent_label_and_the_smaller_on_ties():
    pixels = torch.tensor([[5, 1, 3, 3, 9], [1, 5, 0, 3, 9], [2, 2, 4, 0, 9], [0, 7, 0, 4, 9], [9, 9, 9, 9, 9]])
    assert patch_labels(pixels, 2, 10).tolist() == [[1, 3], [2, 0]]


def test_blocks_scale_with_depth():
    assert [scaled_block(number, 12) for number in range(1, 13)] == list(range(1, 13))
    assert [scaled_block(number, 24) for number in (6, 7, 8, 9)] == [12, 14, 16, 18]
    assert [scaled_block(number, 6) for number in (1, 6, 7, 8, 9, 11)] == [1, 3, 3, 4, 4, 5]
    for depth in range(6, 60):
        scaled = [scaled_block(number, depth) for number in range(1, 12)]
        assert scaled == sorted(scaled) and scaled[0] >= 1 and scaled[-1] < depth


def test_a_deeper_clip_is_read_in_proportion():
    deep = tiny_clip.model("resclip", clip=tiny_clip.clip(vision={"layers": 24}), blocks=(6, 9))
    with torch.inference_mode():
        middle, _, _ = deep.to_last_block(crops())
        states = list(deep.clip.states(crops()))
    for (query, _), number in zip(middle, (12, 18), strict=True):
        block = deep.clip.blocks[number - 1]
        expected = torch.stack(
            [torch.stack([q for q, _, _ in plain_clip.heads(block, one.double())]) for one in states[number - 1]]
        )
        torch.testing.assert_close(query.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "given",
    [{"blocks": ()}, {"blocks": (6, 12)}, {"blocks": (0,)}, {"residual_weight": 1.1}, {"feedback_weight": -0.1}]
    + [{"feedback_threshold": 2.0}, {"std": 0.0}, {"residual_scale": 0.0}, {"feedback_scale": -1.0}],
    ids=str,
)
def test_options_that_make_no_sense(given):
    with pytest.raises(InputError, match=next(iter(given))):
        Options(**given)


def test_a_shallow_clip_is_refused_before_its_weights_are_read(tmp_path):
    folder = tiny_clip.save_folder(tmp_path / "clip")  # of 2 blocks
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="ResCLIP reads block 11 of 12 .* 2 blocks is too shallow"):
        plan(clip=folder, method="resclip", blocks=(6, 11))
