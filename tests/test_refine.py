"""Refinements of score maps, held against slow ways of writing them, and how one is named."""

import itertools
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scored import score_images

from proxyclip.errors import InputError, NotFound
from proxyclip.labels import LabelRule, decide_labels
from proxyclip.refine import Guide, read_refinement, refinement_names, sam
from proxyclip.refine.masks import ByMasks, read_masks
from proxyclip.refine.pamr import Options, Refinement
from proxyclip.windows import Batches, SlidingWindows, View, WindowScores

ROOT = Path(__file__).parents[1]
RANDOM = np.random.default_rng(0)


def slow_step(image: list, scores: list, dilations) -> list:
    """One step of PAMR, (3, H, W) and (H, W), pixel by pixel."""
    height, width = len(scores), len(scores[0])
    result = [[0.0] * width for _ in range(height)]
    for y, x in itertools.product(range(height), range(width)):
        near = []  # the stencils' places, with the pixel itself once per dilation
        for dilation in dilations:
            for down, right in itertools.product((-dilation, 0, dilation), repeat=2):
                place = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                near.append((place, down == right == 0))
        exponents = []
        for (row, column), itself in near:
            channels = []
            for channel in image:
                deviation = statistics.stdev(channel[r][c] for (r, c), _ in near)
                channels.append(-abs(channel[y][x] - channel[row][column]) / (1e-8 + 0.1 * deviation))
            exponents.append(float("-inf") if itself else statistics.mean(channels))
        weights = [np.exp(exponent) for exponent in exponents]
        total = sum(weight * scores[r][c] for weight, ((r, c), _) in zip(weights, near, strict=True))
        result[y][x] = total / sum(weights)
    return result


def test_pamr_pixel_by_pixel():
    image = RANDOM.random((3, 6, 9))
    image[:, 2:5, 3:] = image[:, 2:3, 3:4]  # one colour: there all weights are equal
    scores = RANDOM.normal(size=(2, 6, 9))
    guide = Guide(torch.tensor(image, dtype=torch.float32), None)
    found = Refinement(Options(2, (1, 3)))(lambda queries: torch.tensor(scores).float()[queries], guide)(slice(None))
    for query in range(2):
        expected = slow_step(image.tolist(), scores[query].tolist(), (1, 3))
        expected = torch.tensor(slow_step(image.tolist(), expected, (1, 3)))
        torch.testing.assert_close(found[query], expected.float(), atol=1e-5, rtol=1e-5)


def test_the_range_of_an_image_s_values_does_not_matter_to_pamr():
    image, maps = torch.rand(3, 20, 30), torch.rand(4, 20, 30)
    shift, scale = torch.rand(2, 3, 1, 1)
    one, other = (Refinement(Options())(maps.__getitem__, Guide(i, None)) for i in (image, (image - shift) / scale))
    torch.testing.assert_close(one(slice(None)), other(slice(None)), atol=1e-4, rtol=0)


@pytest.fixture
def scores() -> WindowScores:
    """Of 7 queries, in overlapping windows and in a second view with a weight."""
    given = torch.randn(7, 30, 40, generator=torch.Generator().manual_seed(1))
    windows = SlidingWindows(24, 11)

    def window_scores(crops):
        return given[None, :, :6, :6] * crops.mean((1, 2, 3), keepdim=True)

    (found,) = score_images(window_scores, [torch.rand(3, 30, 40)], windows, torch.zeros(3), Batches(4))
    whole = View(given.permute(1, 0, 2), SlidingWindows(0, 1), (30, 40), weight=0.3)
    return WindowScores((found.views[0], whole))


OWNERS = torch.tensor([0, 1, 1, 2, 0, 3, 4])
RULES = {
    "softmax": LabelRule(scale=9.0, threshold=0.3),
    "none": LabelRule(activation="none", scale=2.0),
    "sigmoid": LabelRule(activation="none", window_sigmoid=True, scale=2.0),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("subtract", [None, torch.tensor([0.0, 0.5, 0.5, 0, 0, 0.1, 0])], ids=["plain", "subtract"])
def test_blocks_and_a_refinement_that_changes_nothing_make_no_difference(scores, rule, subtract):
    expected = decide_labels(scores, (33, 47), rule, OWNERS, subtract=subtract, keep=range(5))
    assert len(expected.labels.unique()) > 2
    for block in (1, 3 * 33 * 47, 10**9):
        found = decide_labels(
            scores, (33, 47), rule, OWNERS, refine=lambda maps: maps, subtract=subtract, keep=range(5), block=block
        )
        torch.testing.assert_close(found.confidence, expected.confidence, atol=2e-6, rtol=0)
        for index in range(5):
            torch.testing.assert_close(found.class_scores[index], expected.class_scores[index], atol=2e-6, rtol=0)
        assert torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_refined_are_the_scores_before_the_scale_and_all_else_follows_from_them(scores, rule):
    """The maps are those that the label rule would decide by, without scale, and the softmax is over the new ones."""
    plain = LabelRule(rule.scale if rule.window_sigmoid else 1.0, rule.window_sigmoid, activation="none")
    maps = decide_labels(scores, (33, 47), plain, torch.arange(7), keep=range(7)).class_scores
    maps = torch.stack([maps[index] for index in range(7)])
    guide, pamr = Guide(torch.rand(3, 33, 47), None), Refinement(Options(3, (2, 5)))
    refined = pamr(maps.__getitem__, guide)(slice(None))
    decided = refined if rule.activation == "none" else (refined * rule.scale).softmax(0)
    if rule is RULES["none"]:
        decided = decided * rule.scale
    classes = torch.stack([decided[torch.eq(OWNERS, index)].amax(0) for index in range(5)])

    def refine(given):
        torch.testing.assert_close(given(slice(2, 5)), maps[2:5], atol=2e-6, rtol=0)
        return pamr(given, guide)

    for block in (4000, 10**9):
        found = decide_labels(scores, (33, 47), rule, OWNERS, refine=refine, keep=range(5), block=block)
        torch.testing.assert_close(found.confidence, decided.amax(0), atol=2e-6, rtol=0)
        for index in range(5):
            torch.testing.assert_close(found.class_scores[index], classes[index], atol=2e-6, rtol=0)
        best = torch.where(decided.amax(0) < rule.threshold, 0, classes.argmax(0))
        assert (found.labels == best).float().mean() > 0.999  # but for ties within rounding


@pytest.mark.parametrize("block", [1, 3 * 33 * 47, 10**9])
@pytest.mark.parametrize(
    "rule",
    [
        LabelRule(scale=1.5, area=0.2),
        LabelRule(scale=1.5, area=0.2, threshold=0.35),
        LabelRule(activation="none", area=0.2, threshold=1.0),
    ],
    ids=str,
)
def test_small_classes_get_no_pixels(scores, rule, block):
    """Areas are those of the refined maps: softmax, best name, small classes to zero, argmax, threshold."""
    plain = LabelRule(activation="none")
    maps = decide_labels(scores, (33, 47), plain, torch.arange(7), keep=range(7)).class_scores
    maps = torch.stack([maps[index] for index in range(7)])
    image = torch.rand(3, 33, 47, generator=torch.Generator().manual_seed(0))
    pamr = partial(Refinement(Options(3, (2, 5))), guide=Guide(image, None))
    refined = pamr(maps.__getitem__)(slice(None)) * rule.scale
    decided, nothing = (refined, float("-inf")) if rule.activation == "none" else (refined.softmax(0), 0.0)
    classes = torch.stack([decided[torch.eq(OWNERS, index)].amax(0) for index in range(5)])
    before = classes.argmax(0)
    small = [index for index in range(1, 5) if (before == index).sum() <= rule.area * (before > 0).sum()]
    classes[small] = nothing
    best, labels = classes.max(0)
    assert small and labels[before != labels].any()  # some pixels go to another object class
    found = decide_labels(scores, (33, 47), rule, OWNERS, refine=pamr, keep=range(5), block=block)
    assert (found.labels == labels.where(best >= rule.threshold, 0)).float().mean() > 0.999  # but for ties
    assert not torch.isin(found.labels, torch.tensor(small)).any()
    torch.testing.assert_close(found.confidence, best, atol=1e-5, rtol=0)
    for index in range(5):
        torch.testing.assert_close(found.class_scores[index], classes[index], atol=1e-5, rtol=0)


def test_without_any_pixel_of_an_object_all_objects_are_small():
    maps = torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 4, 6)
    view = WindowScores((View(maps.permute(1, 0, 2), SlidingWindows(0, 1), (4, 6)),))
    for block in (1, 10**6):
        found = decide_labels(
            view, (4, 6), LabelRule(area=0.1), torch.arange(3), refine=lambda maps: maps, keep=range(3), block=block
        )
        assert found.labels.eq(0).all() and found.class_scores[1].eq(0).all() and found.class_scores[2].eq(0).all()
        torch.testing.assert_close(found.confidence, maps.softmax(0)[0])


def test_memory_does_not_grow_with_the_number_of_classes():
    """300 maps of 500 × 600 would be 360 MB, and their neighbours 3 GB."""
    code = "import resource, torch; from test_refine import *; image = torch.rand(3, 500, 600); "
    code += "scores = WindowScores((View(torch.rand(8, 300, 9), SlidingWindows(0, 1), (500, 600)),)); "
    code += "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); "
    code += "refine = lambda maps: Refinement(Options(1, (4,)))(maps, Guide(image, None)); "
    code += "decide_labels(scores, (500, 600), LabelRule(), torch.arange(300), refine=refine); print(peak() - before)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 330_000  # KiB


class Given(ByMasks):
    """Masks that are given, (N, H, W) bool."""

    def __init__(self, masks):
        self.given = masks

    def masks(self, guide):
        return [mask.flatten().nonzero()[:, 0] for mask in self.given]


def test_masks_one_by_one():
    maps = torch.randn(3, 8, 10, dtype=torch.float64)
    masks = torch.zeros(4, 8, 10, dtype=torch.bool)
    masks[0, 2:4, 2:4] = True  # within the next one
    masks[1, 1:6, 1:7] = True
    masks[2, 5:8, 5:10] = True  # overlaps the one before
    expected = maps.clone()
    for number in (1, 2, 0):  # the largest first; the last one is empty
        for query in range(3):
            expected[query][masks[number]] = maps[query][masks[number]].mean()
    found = Given(masks)(maps.__getitem__, Guide(torch.rand(3, 8, 10), None))
    torch.testing.assert_close(found(slice(None)), expected)
    assert torch.equal(found(slice(1, 2)), found(slice(None))[1:2])
    assert torch.equal(found(slice(None))[:, ~masks.any(0)], maps[:, ~masks.any(0)])
    assert torch.equal(Given(masks[3:])(maps.__getitem__, Guide(torch.rand(3, 8, 10), None))(slice(None)), maps)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_regions_of_a_png(tmp_path, mode):
    regions = RANDOM.integers(0, 2 if mode == "1" else 4, (5, 7)) * (300 if mode == "I;16" else 1)
    image = Image.fromarray(regions.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9, 7, 7, 7])  # equal colours are not equal regions
    if mode == "1":
        image = Image.fromarray(regions.astype(bool))
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == mode
    masks = read_masks(tmp_path / "a.png", (5, 7))
    numbers = [number for number in np.unique(regions) if number]
    assert len(masks) == len(numbers)
    for mask, number in zip(masks, numbers, strict=True):
        assert set(mask) == set(np.flatnonzero(regions == number))


def test_masks_of_an_npz(tmp_path):
    masks = RANDOM.random((3, 5, 7)) > 0.5
    np.savez(tmp_path / "a.npz", masks=masks)
    for mask, expected in zip(read_masks(tmp_path / "a.npz", (5, 7)), masks, strict=True):
        assert np.array_equal(mask, np.flatnonzero(expected))


def folder_of_masks(tmp_path):
    folder = tmp_path / "masks"
    (folder / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(folder / "a" / "b.png")
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(folder / "colour.png")
    (folder / "torn.png").write_bytes((folder / "a" / "b.png").read_bytes()[:30])
    np.savez(folder / "number.npz", masks=np.zeros((3, 5, 7), np.uint8))
    np.savez(folder / "flat.npz", masks=np.zeros((5, 7), bool))
    np.savez(folder / "other.npz", something=np.zeros((3, 5, 7), bool))
    np.savez(folder / "objects.npz", masks=np.array([{}]))
    np.savez(folder / "small.npz", masks=np.zeros((3, 5, 6), bool))
    (folder / "no.npz").write_bytes(b"PK")
    return folder


MASKS = {
    "colour": "colour.png has mode RGB: save region numbers",
    "torn": "torn.png: unsupported format or corrupted file",
    "number": "number.npz: `masks` must be boolean (N, H, W), not uint8 (3, 5, 7)",
    "flat": "flat.npz: `masks` must be boolean (N, H, W), not bool (5, 7)",
    "other": "other.npz has no array `masks`",
    "objects": "cannot read mask file",
    "small": "small.npz has 5x6 pixels (height x width), its image 5x7",
    "no": "cannot read mask file",
    "absent": "there are no masks for image absent: ",
    "../masks/colour": "'../masks/colour' cannot be the name of an image",
    None: "masks from a folder are found by the name of the image",
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_that_cannot_be_used(name, tmp_path):
    refinement = read_refinement(f"masks:{folder_of_masks(tmp_path)}").build()
    refinement.check(["a/b"])
    assert list(refinement.masks(Guide(torch.rand(3, 5, 7), "a/b"))) == []
    with pytest.raises((InputError, NotFound)) as error:
        refinement.masks(Guide(torch.rand(3, 5, 7), name))
    assert MASKS[name] in str(error.value) and "\n" not in str(error.value)


def test_the_identity_of_a_folder_of_masks_is_that_of_its_files(tmp_path):
    folder = folder_of_masks(tmp_path)
    one = read_refinement(f"masks:{folder}").build()
    moved = folder.rename(tmp_path / "moved")
    other = read_refinement(f"masks:{moved}").build()
    assert one.settings() == other.settings() == {"name": "masks", "files": 9, "fingerprint": one.fingerprint}
    assert other.title == f"masks:moved {one.fingerprint[:6]}"
    (moved / "a" / "b.png").write_bytes(b"something else")
    assert read_refinement(f"masks:{moved}").build().settings() != one.settings()


class Generator:
    """In place of Segment Anything's: its only mask is what is bright."""

    def __init__(self, sam, points_per_side, pred_iou_thresh, stability_score_thresh):
        assert (points_per_side, pred_iou_thresh, stability_score_thresh) == (8, 0.88, 0.95)
        assert sam.weight[0, 0] == 3

    def generate(self, image):
        assert image.dtype == np.uint8 and image.shape == (6, 9, 3)
        return [{"segmentation": image[..., 0] > 100}]


def test_segment_anything_finds_the_masks(tmp_path, monkeypatch):
    registry = {"vit_b": lambda: torch.nn.Linear(1, 1)}
    library = SimpleNamespace(sam_model_registry=registry, SamAutomaticMaskGenerator=Generator)
    monkeypatch.setattr(sam, "import_library", lambda name: library)
    monkeypatch.setattr(sam, "check_operators", lambda: None)
    monkeypatch.setattr(sam, "load_strict", lambda module, state, _: torch.nn.init.constant_(module.weight, 3))
    torch.save({sam.WIDTH: torch.zeros(1, 4, 4, 768)}, tmp_path / "sam.pth")
    found = read_refinement(f"sam:{tmp_path / 'sam.pth'}:points=8").build()
    assert found.settings() == {
        "name": "sam", "checkpoint": "sam.pth", "points": 8, "predicted_iou": 0.88, "stability": 0.95,
        "fingerprint": found.fingerprint,
    }  # fmt: skip
    assert str(tmp_path) not in found.title and found.fingerprint[:6] in found.title and "points=8" in found.title
    assert [name for name, _ in found.named_parameters()] == ["sam.weight", "sam.bias"]  # moved with the model
    image, maps = torch.zeros(3, 6, 9), torch.rand(2, 6, 9)
    image[:, 2:4, 3:] = 0.5
    expected = maps.clone()
    expected[:, 2:4, 3:] = maps[:, 2:4, 3:].mean((1, 2), keepdim=True)
    torch.testing.assert_close(found(maps.__getitem__, Guide(image, "any"))(slice(None)), expected)
    torch.save({sam.WIDTH: torch.zeros(1, 4, 4, 64)}, tmp_path / "sam.pth")
    with pytest.raises(InputError, match="sam.pth is not one of Segment Anything's vit_b, vit_l, vit_h"):
        read_refinement(f"sam:{tmp_path / 'sam.pth'}").build()


def test_names_of_refinements(tmp_path):
    assert refinement_names() == ["masks", "pamr", "sam", "tlp"]
    assert read_refinement(None) is None and read_refinement("none") is None
    assert read_refinement("pamr").options == Options(10, (8, 16))
    assert read_refinement("pamr:steps=5").build().title == "pamr:steps=5"
    chosen = read_refinement("pamr:dilations=1,2:steps=3").build()
    assert chosen.options == Options(3, (1, 2)) and chosen.title == "pamr:steps=3:dilations=1,2"
    assert chosen.settings() == {"name": "pamr", "steps": 3, "dilations": [1, 2]}
    assert read_refinement("pamr").build().title == "pamr"
    for folder in ("with:colon", "steps=2", "C:=x"):
        (tmp_path / folder).mkdir()
        assert read_refinement(f"masks:{tmp_path / folder}").options.folder == str(tmp_path / folder)
        assert read_refinement(f"masks:folder={tmp_path / folder}").options.folder == str(tmp_path / folder)


MISTAKES = {
    "pam": "unknown refinement 'pam'; did you mean pamr or sam?",
    "_refinement": "unknown refinement '_refinement'",
    "": "unknown refinement ''",
    "pamr:5": "refine=pamr:5: write pamr:FIELD=VALUE; the options are steps, dilations",
    "pamr:": "refine=pamr:: write pamr:FIELD=VALUE",
    "pamr:step=5": "refine=pamr:step=5: pamr has no option 'step'; did you mean steps?",
    "pamr:steps=x": "steps must be a whole number, not 'x'",
    "pamr:steps=0": "steps is 0; choose a number from 1 to 1000",
    "pamr:dilations=0,4": "dilations are (0, 4); choose one or several distances",
    "pamr:steps=3:dilation=4": "refine=pamr:steps=3:dilation=4: pamr has no option 'dilation'; did you mean dilations?",
    "masks": "refine=masks: name the folder, as in masks:FOLDER",
    "masks:": "refine=masks:: name the folder, as in masks:FOLDER",
    "masks:absent": "the folder of masks absent does not exist",
    "masks:tests/golden": "the folder of masks tests/golden contains no .png or .npz file",
    "sam": "refine=sam: name the checkpoint, as in sam:CHECKPOINT",
    "sam:absent.pth": "checkpoint absent.pth does not exist",
    "sam:README.md:points=0": "points is 0; choose a number from 1 to 256",
    7: 'refine must be text such as "pamr" or "masks:FOLDER", not 7',
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_naming_one(text, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((InputError, NotFound)) as error:
        read_refinement(text).build()
    assert str(error.value).startswith(MISTAKES[text]) and "\n" not in str(error.value)
