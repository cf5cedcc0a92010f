"""GLA-CLIP: attention across windows, patch by patch, and what it may cost."""

import math

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from largest_tensors import Shapes
from torch import nn

import proxyclip
from proxyclip.errors import InputError
from proxyclip.methods import glaclip
from proxyclip.methods.glaclip import Options
from proxyclip.windows import cut


class Colours(nn.Module):
    """A VFM whose features of patches differ in all directions: 8 pixels a patch, 6 channels."""

    patch_size, name = 8, "colours"

    def __init__(self):
        super().__init__()
        weight = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(weight - weight.mean((1, 2, 3), keepdim=True), requires_grad=False)

    def forward(self, crops):
        return F.conv2d(crops.to(self.weight.dtype), self.weight, stride=8)


def model(**options):
    """Of windows of 32 pixels, for images of 40 × 56: 2 × 3 windows of 4 × 4 patches each."""
    clip = tiny_clip.clip(vision={"patch_size": 16, "image_size": 48})
    sizes = {"crop": 32, "stride": 16, "multiple": 8}
    return tiny_clip.model("glaclip", clip=clip, vfm=Colours(), **sizes | options)


def image(height=40, width=56, seed=4):
    small = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed + 1))
    return F.interpolate(small, (height, width), mode="bicubic")[0].clamp(0, 1) * 0.8 + 0.2 * noise


def windows_of(model, image):
    return torch.stack([*cut(image, model.windows, model.padding_colour)])


PUBLISHED = {
    "similarity": 0.55,
    "steps": 2,
    "beta_growth": 0.3,
    "gamma_growth": 30.0,
    "row_mean": True,
    "fixed_beta": None,
    "fixed_gamma": None,
}


def slow_attention(patches, windows, options):
    """(n, C) in float64 -> (n, n), and how close any decision was."""
    unit = [patch / max(float(patch.norm()), 1e-12) for patch in patches]
    anchors, counts, closest = [], [], 1.0
    for own in unit:
        anchor, count = own, 1
        for _ in range(options["steps"]):
            similar = [float(anchor @ other) for other in unit]
            closest = min([closest, *(abs(value - options["similarity"]) for value in similar)])
            members = [other for value, other in zip(similar, unit, strict=True) if value > options["similarity"]]
            count = max(len(members), 1)
            total = sum(members) / len(members) if members else own
            anchor = total / total.norm() if members else own
        anchors.append(anchor)
        counts.append(count)
    similarity = torch.tensor([[float(anchor @ other) for other in unit] for anchor in anchors]).double()
    beta = options["fixed_beta"]
    if beta is None:
        beta = 1 + options["beta_growth"] * math.log(1 + windows)
    rows = []
    for row, count in zip(similarity, counts, strict=True):
        gamma = options["fixed_gamma"]
        if gamma is None:
            gamma = 1 + options["gamma_growth"] / count
        mean = max(0.0, float(row.mean() if options["row_mean"] else similarity.mean()))
        logits = [gamma * (float(value) - beta * mean) for value in row]
        least = min(0.0, max(logits))
        closest = min([closest, *(abs(logit) for logit in logits if logit != least)])
        weights = [math.exp(logit - max(logits)) if logit >= least else 0.0 for logit in logits]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows).double(), closest


def slowly(model, crops, options):
    """(W, 3, c, c) -> embeddings (W, E, h, w), the fraction of pairs that are attended to."""
    features = torch.stack([patch for crop in crops for patch in model.vfm(crop[None])[0].flatten(1).T]).double()
    attention, closest = slow_attention(features, len(crops), options)
    assert closest > 1e-6  # rounding decides nothing
    values = [F.interpolate(model.clip.values(crop[None]), (4, 4), mode="bilinear")[0].flatten(1).T for crop in crops]
    mixed = attention @ torch.cat(values).double()  # (n, D)
    found = model.clip.project(mixed.float()[None])[0]
    return found.unflatten(0, (len(crops), 4, 4)).permute(0, 3, 1, 2), float((attention > 0).double().mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"similarity": 0.8, "steps": 4, "gamma_growth": 5.0},
        {"beta_growth": 0.0},
        {"beta_growth": 5.0},
        {"row_mean": False},
        {"fixed_beta": 50.0},
        {"steps": 0, "row_mean": False, "fixed_beta": 1.2, "fixed_gamma": 3.0},
    ],
    ids=str,
)
@torch.no_grad()
def test_patch_by_patch(changes):
    found = model(**changes)
    crops = windows_of(found, image())
    assert crops.shape == (6, 3, 32, 32)
    expected, attended = slowly(found, crops, PUBLISHED | changes)
    assert 0.005 < attended < 0.9
    torch.testing.assert_close(found.embed(crops), expected, atol=2e-5, rtol=1e-4)
    if changes:
        assert (expected - model().embed(crops)).abs().max() > 1e-4


def test_a_row_that_resembles_no_patch_is_its_own_anchor():
    patches, row = torch.eye(4)[:3], torch.eye(4)[3:]
    anchors, count = glaclip.proxy_anchors(row, patches, patches.T, 0.55, 2)
    assert torch.equal(anchors, row) and count.item() == 1


@pytest.mark.parametrize("pairs", [1, 5 * 96])
@torch.no_grad()
def test_blocks_of_rows_make_no_difference(monkeypatch, pairs):
    expected = model(row_mean=False), model()
    crops = windows_of(expected[0], image())
    expected = [each.embed(crops) for each in expected]
    monkeypatch.setattr(glaclip, "BLOCK", pairs)
    found = [each.embed(crops) for each in (model(row_mean=False), model())]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_memory_does_not_grow_with_the_square_of_the_patches(monkeypatch):
    monkeypatch.setattr(glaclip, "BLOCK", 200_000)
    found, text = model(stride=8), torch.eye(16)[:5]
    found.image_scores(image(), text)  # what is measured once per process
    windows = found.windows.count((72, 160))
    with Shapes() as shapes:
        (view,) = found.image_scores(image(72, 160), text).views
    assert windows == 102 and view.scores.numel() == 102 * 16 * 5
    assert max(map(math.prod, shapes.found)) == windows * 3 * 32**2  # the windows themselves
    assert windows * 3 * 32**2 < (windows * 16) ** 2 / 5


@torch.no_grad()
def test_every_window_s_scores_stand_in_its_place_and_are_the_same_in_any_batch():
    found, text = model(), F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    (view,) = found.image_scores(image(), text, batch_windows=3).views
    embedded = found.embed(windows_of(found, image()))
    assert view.scores.shape == (2 * 4, 3, 3 * 4) and view.size == (40, 56) and view.windows == found.windows
    for window, patches in enumerate(embedded):
        for y in range(4):
            for x in range(4):
                expected = text @ patches[:, y, x] / patches[:, y, x].norm()
                place = view.scores[window // 3 * 4 + y, :, window % 3 * 4 + x]
                torch.testing.assert_close(place, expected, atol=1e-5, rtol=1e-4)
    (alone,) = found.image_scores(image(), text, batch_windows=1).views
    torch.testing.assert_close(alone.scores, view.scores, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_windows_depend_on_each_other_but_images_do_not():
    found, text = model(), torch.eye(16)[:3]
    plain, changed = image(), image()
    changed[:, :, 32:] = image(seed=9)[:, :, 32:]  # beyond the first window
    one, other = (found.image_scores(each, text).views[0].scores[:4, :, :4] for each in (plain, changed))
    assert (one - other).abs().max() > 1e-3
    together = [found.image_scores(each, text, 8).views[0].scores for each in (changed, plain)]
    torch.testing.assert_close(together[1][:4, :, :4], one, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_image_with_one_window_and_patches_without_features():
    found = model()
    small = image(20, 30)
    crops = windows_of(found, small)
    assert crops.shape == (1, 3, 24, 32)
    crops[:, :, :16, 8:24] = 0
    features = found.vfm(crops)
    assert (features.norm(dim=1) == 0).sum() == 4
    assert found.embed(crops).isfinite().all()
    assert found.image_scores(small, torch.eye(16)).views[0].scores.shape == (3, 16, 4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_whole_path(precision):
    found = model().set_precision(precision)
    result = found.segment(tiny_clip.photograph(45, 80), ["cat", "dog; hound", "sky"])
    assert result.labels.shape == (45, 80)
    assert result.settings["method"] == "GLA-CLIP" and result.settings["vfm"] == "colours"
    assert {name: result.settings[name] for name in PUBLISHED} == PUBLISHED


def test_the_whole_image_as_one_window_is_refused_before_any_weights_are_loaded():
    with pytest.raises(InputError, match="GLA-CLIP lets windows attend to each other: choose a crop instead of 0"):
        proxyclip.load(clip="ViT-B-16:openai", vfm="dino-vitb8", method="glaclip", crop=0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"similarity": 1.0}, "similarity is 1.0; choose a cosine similarity"),
        ({"similarity": -0.1}, "similarity is -0.1"),
        ({"steps": -1}, "steps is -1; choose a number from 0"),
        ({"steps": 0}, "steps 0 leaves no sets of patches"),
        ({"beta_growth": -1.0}, "must not be negative"),
        ({"gamma_growth": -1.0}, "must not be negative"),
        ({"fixed_beta": -1.0}, "must not be negative"),
        ({"fixed_gamma": 0.0}, "fixed_gamma is 0.0; it must be positive"),
    ],
)
def test_invalid_options(given, sentence):
    with pytest.raises(InputError, match=sentence):
        Options(**given)
