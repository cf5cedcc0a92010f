"""What the page computes, without a browser: runs, pictures, heat maps, files, limits, and the models in memory."""

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_files import HOSTILE, jpeg
from PIL import Image

import proxyclip
from datasets import scenes
from proxyclip.errors import InputError, NotFound
from proxyclip.images import read_image

pytest.importorskip("gradio", reason="the page needs Gradio")

from app_server import EXAMPLES, MINI, new_results

from proxyclip.app import results as results_module
from proxyclip.app.models import NONE, Models
from proxyclip.app.page import sentence
from proxyclip.app.results import FILES, Limits, Result, Results, read_names
from proxyclip.command.model_options import ModelChoice
from proxyclip.pictures.overlay import heatmap
from proxyclip.vocabulary import Vocabulary

NAMES = ["sky", "sea; ocean", "bird"]
DEFAULTS = {"method": "proxyclip", "other": NONE, "refine": NONE, "background": NONE, "threshold": 0.25}


@pytest.fixture(scope="module")
def models():
    return Models(ModelChoice(MINI))


@pytest.fixture(scope="module")
def reference():
    return proxyclip.load(**MINI)


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(scenes.draw(7, 96)[0][:64])  # (64, 96, 3)


@pytest.fixture
def results(models, tmp_path):
    return Results(models, Limits(), tmp_path)


def upload(results, image, name="my scene.png") -> dict:
    """What Gradio says of an uploaded file."""
    path = results.folder / f"{len(list(results.folder.iterdir()))}.png"
    path.write_bytes(image) if isinstance(image, bytes) else Image.fromarray(image).save(path)
    return {"path": str(path), "orig_name": name, "url": "x"}


def run(results, uploads, names="sky\nsea; ocean, bird", pair="mini", warn=pytest.fail, **settings) -> list[Result]:
    keys = list(results.run(uploads, [names, pair, *(DEFAULTS | settings).values()], lambda text: None, warn))
    return [results.get(key) for key in keys]


def test_a_run_is_what_the_model_says(results, reference, image):
    (result,) = run(results, [upload(results, image)])
    expected = reference.segment(image, NAMES, probabilities=["bird"])
    assert result.name == "my scene" and result.names == ("sky", "sea", "bird") and not result.notes
    np.testing.assert_array_equal(result.first.labels, expected.labels)
    shown, masks = result.annotations(0.4)
    np.testing.assert_array_equal(shown, image)
    for mask, name in masks:
        np.testing.assert_array_equal(mask, 0.4 * (expected.labels == result.names.index(name)))
    sizes = [mask.sum() for mask, _ in masks]
    assert sizes == sorted(sizes, reverse=True)
    overlay = np.array(expected.overlay(0.3, legend=False))
    np.testing.assert_array_equal(np.array(result.picture("ProxyCLIP", "", 0.3)), overlay)
    results.add_heat(result, "bird")
    drawn = np.array(result.picture("ProxyCLIP", "bird", 0.6)).astype(int)
    assert np.abs(drawn - np.array(heatmap(image, expected.probabilities["bird"], 0.6))).max() <= 1
    name, percent = NAMES[expected.labels[20, 30]].split(";")[0], 100 * expected.confidence[20, 30]
    factor = overlay.shape[0] // 64  # small pictures are shown larger
    assert result.pixel(factor * 30 + 1, factor * 20 + 1) == f"ProxyCLIP: {name} {percent:.0f} %"
    assert result.pixel(-1, 0) == result.pixel(overlay.shape[1], 0) == ""
    table = result.table()
    assert table["headers"] == ["class", "area %", "probability %"]
    areas = {name: round(100 * area, 1) for name, area in zip(result.names, expected.areas().values(), strict=True)}
    assert {row[0]: row[1] for row in table["data"]} == areas


def test_a_large_image_is_shown_smaller_and_its_heat_maps_wait(results, reference, image, monkeypatch):
    monkeypatch.setattr(results_module, "LONGEST", 48)
    monkeypatch.setattr(results_module, "MOST_VALUES", 100)
    (result,) = run(results, [upload(results, image)])
    shown, masks = result.annotations(1.0)
    assert shown.shape == (32, 48, 3) and not result.heat and not result.first.probabilities
    assert sum(mask for mask, _ in masks).min() == 1
    results.add_heat(result, "sky")
    expected = reference.segment(image, NAMES, probabilities=["sky"]).probabilities["sky"][1::2, 1::2]
    assert np.abs(result.heat["ProxyCLIP", "sky"] / 255 - expected).max() <= 0.5 / 255 + 1e-6
    monkeypatch.setattr(Models, "segment", lambda *_, **__: pytest.fail("it is held by now"))
    results.add_heat(result, "sky")
    with pytest.raises(InputError, match="no class 'road'"):
        results.add_heat(result, "road")
    with pytest.raises(InputError, match="too large for the page"):
        results.save(result, "probabilities")


def test_refinement_background_and_a_second_method_reach_the_model(results, reference, image):
    refined = proxyclip.load(**MINI, refine="pamr")
    plain = run(results, [upload(results, image)])[0].first.labels
    for background, threshold in (("threshold", 0.9), ("vocabulary", None)):
        asked = {"background": background, "threshold": threshold}
        (result,) = run(results, [upload(results, image)], refine="pamr", **asked)
        expected = refined.segment(image, NAMES, **asked)
        assert result.first.classes == expected.classes
        np.testing.assert_array_equal(result.first.labels, expected.labels)
    np.testing.assert_array_equal(run(results, [upload(results, image)])[0].first.labels, plain)
    (result,) = run(results, [upload(results, image)], other="maskclip")
    expected = proxyclip.load(**MINI, method="maskclip").segment(image, NAMES)
    np.testing.assert_array_equal(result.segmentations["MaskCLIP"].labels, expected.labels)
    assert len(result.table()["headers"]) == 5 and "MaskCLIP: " in result.pixel(1, 1)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_one_image_and_of_several(kind, results, image):
    uploads = [upload(results, image, name) for name in ("my scene.png", "../../my scene.jpg", "sea.png")]
    (one,) = run(results, uploads[:1])
    path = results.save(one, kind)
    assert path.name.startswith(f"my scene_{kind}.") and path.stat().st_size > 100
    assert results.folder in path.parents
    several = run(results, uploads)
    assert [result.name for result in several] == ["my scene", "my scene-2", "sea"]
    path = results.save(several[1], kind)
    assert path.name == f"3_images_{kind}.zip"
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    if kind == "labels":
        labels = Image.open(io.BytesIO(contents["labels/my scene-2.png"]))
        np.testing.assert_array_equal(np.array(labels), several[1].first.labels)
    if kind == "coco":
        assert len(json.loads(contents["coco.json"])["images"]) == 3
    if kind == "summary":
        assert json.loads(contents["sea.json"]) == json.loads(json.dumps(several[2].first.summary()))
    assert len(contents) >= 1 and all(contents.values())


def test_one_bad_image_does_not_end_a_run(results, image):
    warned = []
    bad = upload(results, b"no image", "notes.png")
    names = [r.name for r in run(results, [bad, upload(results, image, "a.png")], warn=warned.append)]
    assert names == ["a"] and len(warned) == 1 and "'notes.png'" in warned[0]
    with pytest.raises(InputError, match=r"'notes\.png'"):
        run(results, [bad])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, results):
    content, message = HOSTILE[name]
    message = message.replace("is an empty file", "unsupported format")
    with pytest.raises(InputError, match=message) as caught:
        run(results, [upload(results, content, name)])
    assert str(results.folder) not in str(caught.value) and repr(Path(name).name) in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"names": " \n ,, \n"}, "there are no names yet"),
        ({"names": "a, b; c, d"}, "the list has 4 names; at most 3"),
        ({"names": "x" * 101}, "is too long; at most 100 letters"),
        ({"names": "sky, sky"}, "given twice"),
        ({"names": "a\0b"}, "control character"),
        ({"pair": "minni"}, "'minni' cannot be chosen; did you mean mini?"),
        ({"pair": ["mini"]}, "cannot be chosen"),
        ({"method": "proxy"}, "'proxy' cannot be chosen; did you mean proxyclip"),
        ({"other": None}, "None cannot be chosen"),
        ({"refine": "masks:/etc"}, "'masks:/etc' cannot be chosen"),
        ({"background": "words"}, "choose one of none, threshold, vocabulary"),
        ({"background": "threshold", "threshold": 7}, "between 0 and 1"),
        ({"uploads": []}, "1 to 16 images"),
        ({"uploads": [{"path": "/etc/passwd"}]}, "must be uploaded"),
        ({"uploads": [{"path": 3}]}, "must be uploaded"),
        ({"uploads": [{}]}, "must be uploaded"),
        ({"uploads": 17 * [{}]}, "1 to 16 images"),
        ({"pair": "vitb16-dino"}, "the weights of .* are neither in the cache"),
    ],
)
def test_what_cannot_be_run_is_one_sentence_before_anything_is_computed(changed, message, models, image, tmp_path):
    results = Results(models, Limits(names=3), tmp_path)
    with pytest.raises((InputError, NotFound), match=message):
        run(results, **({"uploads": [upload(results, image)], "names": "sky, sea"} | changed))
    assert not results.held
    run(results, [upload(results, image)], "sky, sea")


def test_pixels_are_limited(models, tmp_path):
    results = Results(models, Limits(pixels=59_999), tmp_path)
    with pytest.raises(InputError, match=r"'noise\.jpg' has 200x300 = 60000 pixels"):
        run(results, [upload(results, jpeg(), "noise.jpg")])


def test_memory_is_bounded(models, image, tmp_path):
    results = Results(models, Limits(memory=250_000), tmp_path)
    for _ in range(4):
        (result,) = run(results, [upload(results, image)])
        assert results.held.currsize <= 250_000
    arrays = [result.first.image, result.image, result.first.labels, result.first.confidence, *result.heat.values()]
    assert result.nbytes == sum(array.nbytes for array in arrays)
    assert 1 <= len(results.held) < 4
    with pytest.raises(InputError, match="no longer held"):
        results.get("x")
    with pytest.raises(InputError, match="more memory than there is"):
        run(results, [upload(results, np.tile(image, (3, 3, 1)))])


def test_names_are_lines_and_commas():
    assert read_names("sky, sea; ocean\n\n  wooden floor \n,tree,\n", Limits()) == Vocabulary.parse(
        ["sky", "sea; ocean", "wooden floor", "tree"]
    )


def test_warnings_become_notes_without_folders(results, image):
    (result,) = run(results, [upload(results, image)], "sky, dachshund")
    assert len(result.notes) == 1 and "was not trained on dachshund" in result.notes[0]
    said = "neither in the cache /root/.cache/hub nor reachable: see https://x.org/a/b, ~/a/b.txt, C:\\Users\\c.pt; 1/2"
    assert sentence(said) == "Neither in the cache …/hub nor reachable: see https://x.org/a/b, …/b.txt, …/c.pt; 1/2"
    assert sentence(said.replace("/.cache", "")).startswith("Neither in the cache …/hub")


def test_two_methods_of_one_pair_are_in_memory_at_most(image, tmp_path, monkeypatch):
    results = new_results(tmp_path, ("beta=1.5", "logit_scale=20"))
    for method in ("proxyclip", "maskclip", "clip"):
        (result,) = run(results, [upload(results, image)], method=method)
        assert result.first.settings["logit_scale"] == 20  # of the command line, for all methods of its pair
    held = results.models._held  # the only sign of it
    assert list(held) == [("mini", "maskclip"), ("mini", "clip")]
    monkeypatch.setattr(Models, "plan", lambda self, pair, method, refine=NONE: ("CLIP", self.started.plan()))
    run(results, [upload(results, image)], pair="vitb16-dino")
    assert list(results.models._held) == [("vitb16-dino", "proxyclip")]


def test_a_trained_head_is_the_only_method_of_its_pair(image, tmp_path):
    head = SimpleNamespace(module=SimpleNamespace(Head=SimpleNamespace(method="ZegCLIP")))
    head.build = lambda: proxyclip.load(**MINI)
    started = ModelChoice(
        {"device": "cpu", "precision": "fp32"}, checkpoint=Path("runs/zeg"), trained=lambda *_, **__: head
    )
    results = Results(Models(started), Limits(), tmp_path)
    assert list(results.models.pairs)[:2] == ["trained: zeg", "mini"]
    (result,) = run(results, [upload(results, image)], pair="trained: zeg", other="clip")
    assert list(result.segmentations) == ["ZegCLIP"]
    assert list(run(results, [upload(results, image)])[0].segmentations) == ["ProxyCLIP"]


@pytest.mark.parametrize(("name", "seed"), {"street": 9, "room": 34, "coast": 7, "garden": 18}.items())
def test_examples_are_scenes_and_their_names_are_in_them(name, seed):
    image = read_image(EXAMPLES / f"{name}.png")
    drawn, labels = scenes.draw(seed, 320)
    assert np.abs(image.astype(float) - drawn).mean() < 8  # 64 colours
    names = json.loads(EXAMPLES.with_suffix(".json").read_text())[name]
    assert {line.split(";")[0] for line in names} == {scenes.CLASSES[label] for label in np.unique(labels)}
