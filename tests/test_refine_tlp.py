"""TLP, pixel by pixel and with the whole matrix of its equations."""

import math
from functools import partial

import numpy as np
import pytest
import tiny_clip
import torch
import torch.nn.functional as F

from proxyclip.backbones.checkpoints import import_library
from proxyclip.errors import InputError
from proxyclip.refine import Guide, read_refinement, tlp
from proxyclip.refine.tlp import GREY, Options, Refinement

RANDOM = np.random.default_rng(5)
IMAGE, MAPS, TEXT = RANDOM.random((3, 13, 19)), RANDOM.normal(size=(3, 13, 19)), RANDOM.normal(size=(3, 6))


def given(image=IMAGE, maps=MAPS, text=TEXT):
    """The arguments of a refinement."""
    text = None if text is None else torch.tensor(text).float()
    return torch.tensor(maps).float().__getitem__, Guide(torch.tensor(image).float(), None, len(maps), text)


def pooled(maps, cell_h, cell_w):
    """(n, H, W) -> (n, h, w), cell by cell."""
    height, width = maps.shape[1] // cell_h, maps.shape[2] // cell_w
    found = np.zeros((len(maps), height, width))
    for y in range(height):
        for x in range(width):
            found[:, y, x] = maps[:, y * cell_h : (y + 1) * cell_h, x * cell_w : (x + 1) * cell_w].mean((1, 2))
    return found


def slowly(image, maps, text, grid=80, tau=0.5, boost=10.0, ke=5.0, steps=25):
    """The solution on the grid (Q, h, w) and its weights, in float64."""
    cell = [max(1, round(length / grid)) for length in image.shape[1:]]
    small, queries = pooled(maps, *cell), len(maps)
    _, height, width = small.shape
    colours = pooled(image, *cell)
    mean, deviation = (np.array(getattr(import_library("open_clip"), f"OPENAI_DATASET_{n}")) for n in ("MEAN", "STD"))
    grey = np.einsum("c,chw->hw", [0.299, 0.587, 0.114], (colours - mean[:, None, None]) / deviation[:, None, None])
    trust = np.zeros(queries)
    if text is not None:
        unit = [row / math.sqrt(sum(row**2)) for row in text]
        for i in range(queries):
            row = np.exp([sum(unit[i] * other) / tau for other in unit])
            row = row / sum(row)
            row[i] += boost
            trust[i] = row[i] / (sum(row) + 1e-6)
    chance = np.exp(small) / np.exp(small).sum(0)
    matrix = np.zeros((height * width, height * width))
    confidence = np.zeros(height * width)
    for y in range(height):
        for x in range(width):
            best = max(0.05, chance[:, y, x].max())
            agree = min(max(sum(chance[:, y, x] ** 2 * trust), 0), 1)
            confidence[y * width + x] = best**2 * (1 + agree)
    matrix += np.diag(confidence)
    for down, right in ((0, 1), (1, 0)):
        edges = [((y, x), (y + down, x + right)) for y in range(height - down) for x in range(width - right)]
        differences = [abs(grey[a] - grey[b]) for a, b in edges]
        for (a, b), difference in zip(edges, differences, strict=True):
            weight = math.exp(-ke * difference / (np.mean(differences) + 1e-6))
            weight *= 1 + sum(chance[(slice(None), *a)] * chance[(slice(None), *b)] * trust)
            weight = min(max(weight, 0), 1)
            i, j = a[0] * width + a[1], b[0] * width + b[1]
            matrix[i, i] += weight
            matrix[j, j] += weight
            matrix[i, j] -= weight
            matrix[j, i] -= weight
    found = small.reshape(queries, -1).T  # (h * w, Q)
    residual = confidence[:, None] * found - matrix @ found
    direction = residual
    for _ in range(steps):
        step = (residual**2).sum() / ((direction * (matrix @ direction)).sum() + 1e-12)
        found = found + step * direction
        before, residual = (residual**2).sum(), residual - step * (matrix @ direction)
        direction = residual + (residual**2).sum() / (before + 1e-12) * direction
    return found.T.reshape(small.shape)


@pytest.mark.parametrize("text", [TEXT, None], ids=["text", "no text"])
@pytest.mark.parametrize(
    "options",
    [{"steps": 1}, {"steps": 3}, {}, {"tau": 0.1, "steps": 2, "boost": 0.0}, {"ke": 0.5, "steps": 2}],
    ids=str,
)
def test_pixel_by_pixel(options, text):
    options = {"grid": 5} | options  # cells of 3 × 4 pixels, so a grid of 4 × 4; one row and three columns are dropped
    refined = Refinement(Options(**options))(*given(text=text))
    small = torch.tensor(slowly(IMAGE, MAPS, text, **options)).float()
    assert small.shape == (3, 4, 4)
    expected = F.interpolate(small[None], (13, 19), mode="bilinear")[0]
    torch.testing.assert_close(refined(slice(None)), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(refined(slice(1, 2)), expected[1:2], atol=2e-5, rtol=1e-4)
    without_pool = Refinement(Options(**options | {"grid": 80}))(*given(text=text))(slice(None))
    expected = torch.tensor(slowly(IMAGE, MAPS, text, **options | {"grid": 80})).float()
    torch.testing.assert_close(without_pool, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "grid", "shape"),
    [((5, 7), 2, (2, 1)), ((500, 375), 80, (83, 75)), ((3, 200), 80, (3, 100)), ((9, 11), 1, (1, 1))],
)
def test_sides_of_cells_are_rounded_halves_to_even(size, grid, shape):
    assert Refinement(Options(grid=grid)).pool(torch.zeros(1, *size)).shape == (1, *shape)


def test_maps_are_pooled_in_blocks_of_queries(monkeypatch):
    asked, (maps, guide) = [], given()
    expected = Refinement(Options(grid=5))(maps, guide)(slice(None))
    monkeypatch.setattr(tlp, "BLOCK", 2 * 13 * 19)
    refined = Refinement(Options(grid=5))(lambda queries: asked.append(queries) or maps(queries), guide)
    assert [len(range(3)[queries]) for queries in asked] == [2, 1]
    assert torch.equal(torch.cat([refined(slice(0, 1)), refined(slice(1, 3))]), expected)
    assert len(asked) == 2  # what comes after needs the grid only


def test_grey_is_the_luminance_of_images_as_clip_normalises_them():
    deviation = import_library("open_clip").OPENAI_DATASET_STD
    luminance = [weight * std for weight, std in zip(GREY, deviation, strict=True)]
    assert luminance == pytest.approx([0.299, 0.587, 0.114], abs=1e-9)


@pytest.mark.parametrize("image", [np.full((3, 13, 19), 0.4), np.zeros((3, 1, 19)), np.zeros((3, 1, 1))], ids=np.shape)
def test_without_any_edge_in_the_image(image):
    """A difference of 0 is not divided by 0, and a single row has no rows beside it."""
    maps = MAPS[:, : image.shape[1], : image.shape[2]]
    found = Refinement(Options())(*given(image, maps))(slice(None))
    torch.testing.assert_close(found, torch.tensor(slowly(image, maps, TEXT)).float(), atol=2e-4, rtol=1e-4)


def test_full_precision_inside_autocast():
    expected = Refinement(Options())(*given())(slice(None))
    with torch.autocast("cpu", torch.bfloat16):
        found = Refinement(Options())(*given())(slice(None))
    assert torch.equal(found, expected)


def test_a_model_with_it():
    """The text that counts is the model's own, and what is refined are cosines before the scale."""
    model, image = tiny_clip.model("maskclip", crop=32, stride=16), tiny_clip.photograph(45, 70)
    classes = ["cat", "dog; hound", "sky"]
    plain = model.segment(image, classes, probabilities=classes)
    model.refinement = read_refinement("tlp:grid=20:steps=10").build()
    found = model.segment(image, classes, probabilities=classes)
    assert found.settings["refine"] == {"name": "tlp", "grid": 20, "tau": 0.5, "boost": 10.0, "ke": 5.0, "steps": 10}
    assert model.refinement.title == "tlp:grid=20:steps=10"
    assert not np.array_equal(plain.confidence, found.confidence)
    asked = []

    def with_text(refinement, maps, guide):
        asked.append(guide)
        return Refinement.__call__(refinement, maps, guide._replace(text=None))

    model.refinement = partial(with_text, model.refinement)
    model.refinement.settings = dict
    without = model.segment(image, classes, probabilities=classes)
    assert asked[0].queries == 4 and asked[0].text.shape == (4, 16)
    assert not np.array_equal(without.confidence, found.confidence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("grid=0", "grid is 0; choose a number of rows and columns"),
        ("grid=1001", "grid is 1001; choose"),
        ("steps=0", "steps is 0; choose a number from 1"),
        ("tau=0", "tau is 0.0, boost 10.0 and ke 5.0; tau must be positive"),
        ("boost=-1", "boost -1.0"),
        ("ke=-1", "ke -1.0"),
    ],
)
def test_invalid_options(options, sentence):
    with pytest.raises(InputError, match=sentence):
        read_refinement(f"tlp:{options}")
