"""Runs of the page without a browser: steps, maps, heat maps, downloads, and the models in memory."""

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import proxyclip
import proxyclip.text as text
from datasets import scenes
from proxyclip.errors import InputError

pytest.importorskip("gradio", reason="the page needs Gradio")

from app_server import MINI

from proxyclip.app import held, segmenting
from proxyclip.app.controls import NOTHING, chosen, others, titles
from proxyclip.app.desk import Desk
from proxyclip.app.downloads import download
from proxyclip.app.examples import EXAMPLES, file_of
from proxyclip.app.held import OpenImage
from proxyclip.app.models import Choice, Models
from proxyclip.command.model_options import ModelChoice
from proxyclip.images import read_image

NAMES = "sky\nsea; ocean, bird"
MINI_PROXY = Choice("mini", "proxyclip")


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(scenes.draw(7, 96)[0][:64])  # (64, 96, 3)


@pytest.fixture(scope="module")
def models():
    return Models(ModelChoice(MINI))


@pytest.fixture
def desk(models):
    return Desk(models)


def run(desk, key, names=NAMES, choices=(MINI_PROXY,), **extras):
    """The steps of a run, and its last one."""
    seen = list(segmenting.steps(desk, key, names, list(choices), segmenting.Extras(**extras)))
    return [step["busy"] for step in seen[:-1]], seen[-1]


def unpacked(content, size, dtype=np.uint8):
    return np.frombuffer(gzip.decompress(content), dtype).reshape(size)


def test_a_run_is_what_the_model_says(image):
    desk = Desk(Models(ModelChoice(MINI)))
    key = desk.open(OpenImage(image, "scene"))
    said, last = run(desk, key)
    assert said == ["Loading mini", "Segmenting with ProxyCLIP"]
    assert run(desk, key)[0] == ["Segmenting with ProxyCLIP"]
    expected = desk.models.load(MINI_PROXY).segment(image, ["sky", "sea; ocean", "bird"], probabilities=["bird"])
    assert [shown["name"] for shown in last["classes"]] == expected.classes
    assert [shown["colour"] for shown in last["classes"]] == ["#" + bytes(c).hex() for c in expected.colours()]
    last = run(desk, key)[1]
    (side,) = last["results"]
    assert (side["title"], side["areas"]) == ("ProxyCLIP", list(expected.areas().values()))
    result = desk.result(side["key"])
    assert np.array_equal(unpacked(result.labels(), (64, 96)), expected.labels)
    percent = unpacked(result.confidence(), (64, 96))
    assert np.abs(percent / 100 - expected.confidence).max() <= 0.00501
    heat = unpacked(segmenting.heat(desk, side["key"], 2), (64, 96))
    assert np.abs(heat / 100 - expected.probabilities["bird"]).max() <= 0.00501
    json.dumps(last, allow_nan=False)


def test_large_images_are_shown_smaller_and_their_heat_maps_wait(desk, image, monkeypatch):
    monkeypatch.setattr(held, "LONGEST", 48)
    monkeypatch.setattr(held, "MOST_VALUES", 100)
    opened = OpenImage(image, "scene")
    key = desk.open(opened)
    (side,) = run(desk, key)[1]["results"]
    result = desk.result(side["key"])
    assert Image.open(io.BytesIO(opened.shown())).size == (48, 32)
    assert np.array_equal(unpacked(result.labels(), (32, 48)), result.segmentation.labels[1::2, 1::2])
    assert not result.heat and not result.segmentation.probabilities
    heat = unpacked(segmenting.heat(desk, side["key"], 0), (32, 48))
    expected = desk.models.load(MINI_PROXY).segment(image, ["sky", "sea; ocean", "bird"], probabilities=["sky"])
    assert np.abs(heat / 100 - expected.probabilities["sky"][1::2, 1::2]).max() <= 0.00501
    monkeypatch.setattr(Models, "segment", lambda *_: pytest.fail("it is held by now"))
    segmenting.heat(desk, side["key"], 0)


def test_refinement_and_background_reach_the_model(desk, image, monkeypatch):
    """Also when a heat map makes it run again; the next run without them is as before."""
    monkeypatch.setattr(held, "MOST_VALUES", 100)
    key = desk.open(OpenImage(image, "scene"))
    names = ["sky", "sea; ocean", "bird"]
    refined = proxyclip.load(**MINI, refine="pamr")
    for extras, asked in (
        ({"background": "threshold", "threshold": 0.9}, {"background": "threshold", "threshold": 0.9}),
        ({"background": "vocabulary", "threshold": 0.9}, {"background": "vocabulary"}),
        ({}, {}),
    ):
        expected = refined.segment(image, names, probabilities=["bird"], **asked)
        last = run(desk, key, refine="pamr", **extras)[1]
        assert [shown["name"] for shown in last["classes"]] == expected.classes
        result = desk.result(last["results"][0]["key"])
        np.testing.assert_array_equal(result.segmentation.labels, expected.labels)
        heat = unpacked(segmenting.heat(desk, last["results"][0]["key"], expected.classes.index("bird")), (64, 96))
        assert np.abs(heat / 100 - expected.probabilities["bird"]).max() <= 0.00501
    plain = desk.result(run(desk, key)[1]["results"][0]["key"]).segmentation.labels
    assert (plain != result.segmentation.labels).any()
    for extras, words in (
        ({"refine": "masks:/etc"}, "unknown refinement 'masks:/etc'"),
        ({"background": "words"}, "choose one of none, threshold, vocabulary"),
        ({"background": "threshold", "threshold": 7}, "between 0 and 1"),
    ):
        assert words in run(desk, key, **extras)[1]["error"]


def test_editing_one_name_encodes_one_name(image, monkeypatch):
    desk = Desk(Models(ModelChoice(MINI)))
    encoded, encode = [], text.encode_name
    monkeypatch.setattr(
        text, "encode_name", lambda clip, name, *rest: encoded.append(name) or encode(clip, name, *rest)
    )
    key = desk.open(OpenImage(image, "scene"))
    run(desk, key, "sky, sea, bird")
    assert encoded == ["sky", "sea", "bird"]
    run(desk, key, "sky, sea, fish")
    assert encoded[3:] == ["fish"]
    run(desk, key, "sky, fish, sea, bird", [Choice("mini", "maskclip")])
    assert encoded[4:] == []


def test_a_run_replaces_the_results_of_its_image_and_an_image_the_one_before(desk, image):
    first = desk.open(OpenImage(image, "one"))
    other = desk.open(OpenImage(image, "of someone else"))
    run(desk, other)
    for _ in range(3):
        run(desk, first, choices=chosen("mini", "proxyclip", "clip"))
    assert (len(desk.images), len(desk.results)) == (2, 3)
    desk.open(OpenImage(image, "two"), instead_of=first)
    assert (len(desk.images), len(desk.results)) == (2, 1)
    with pytest.raises(InputError, match="no longer held"):
        desk.image(first)


@pytest.mark.parametrize(
    ("key", "names", "choice", "message"),
    [
        ("", NAMES, MINI_PROXY, "there is no image yet"),
        ("gone", NAMES, MINI_PROXY, "no longer held by the server"),
        (None, "", MINI_PROXY, "there are no names yet"),
        (None, NAMES, Choice("minni", "proxyclip"), "unknown model 'minni'; did you mean mini?"),
        (None, NAMES, Choice("mini", "proxy"), "mini has no method 'proxy'"),
        (None, NAMES, Choice("vitb16-dino", "clip"), "the weights of CLIP ViT-B-16:openai are neither in the cache …/"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_the_page_goes_on(desk, image, key, names, choice, message):
    opened = desk.open(OpenImage(image, "scene"))
    said, last = run(desk, opened if key is None else key, names, [choice])
    assert message in last["error"]
    assert "\n" not in last["error"] and not said[1:]
    assert desk.models.holds(MINI_PROXY) or "weights" in message  # memory is freed before weights are loaded
    assert "results" in run(desk, opened)[1]


def test_a_defect_does_not_reach_the_page(desk, image, monkeypatch):
    monkeypatch.setattr(Models, "segment", lambda *_: 1 / 0)
    assert "division" not in run(desk, desk.open(OpenImage(image, "scene")))[1]["error"]


def test_every_answer_differs_from_the_one_before(desk):
    assert run(desk, "")[1] != run(desk, "")[1]


def test_unknown_words_bring_a_note(desk, image):
    notes = run(desk, desk.open(OpenImage(image, "scene")), "sky, dachshund")[1]["notes"]
    assert len(notes) == 1 and "was not trained on dachshund" in notes[0]


def test_files_are_those_that_save_writes(desk, image, tmp_path):
    (side,) = run(desk, desk.open(OpenImage(image, "scene")))[1]["results"]
    result = desk.result(side["key"])
    paths = result.segmentation.save(tmp_path, "segmentation")
    for kind in ("labels", "json"):
        content, _, name = download(result, kind, 0.5)
        assert (content, name) == (paths[kind].read_bytes(), paths[kind].name)
    shown = Image.open(io.BytesIO(download(result, "overlay", 0.2)[0]))
    assert np.array_equal(np.array(shown), np.array(result.segmentation.overlay(0.2)))
    with pytest.raises(InputError, match="unknown kind"):
        download(result, "overlays", 0.5)
    with pytest.raises(InputError, match="alpha is 7"):
        download(result, "overlay", 7)


def test_two_methods_of_one_pair_are_held_at_most(models):
    for method in ("proxyclip", "maskclip", "proxyclip", "clip"):
        models.load(Choice("mini", method))
    assert [models.holds(Choice("mini", method)) for method in ("proxyclip", "maskclip", "clip")] == [True, False, True]


def test_another_pair_takes_the_place_of_the_first(monkeypatch):
    mini = ModelChoice(MINI)
    models = Models(mini)
    models.load(MINI_PROXY)
    monkeypatch.setattr(Models, "model_choice", lambda self, choice: mini)
    models.load(Choice("vitb16-dino", "proxyclip"))
    assert not models.holds(MINI_PROXY) and models.holds(Choice("vitb16-dino", "proxyclip"))


def test_settings_of_the_command_line_apply_where_a_method_has_them():
    models = Models(ModelChoice(MINI, ("beta=1.5", "logit_scale=20")))
    assert models.model_choice(MINI_PROXY).plan().options.beta == 1.5
    assert models.model_choice(Choice("mini", "clip")).plan().options.logit_scale == 20
    assert models.model_choice(Choice("vitb16-dino", "clip")).settings == ()
    with pytest.raises(InputError, match="no field 'bet'"):
        Models(ModelChoice(MINI, ("bet=1",)))


def test_a_trained_head_comes_first_and_has_no_other_methods(image):
    head = SimpleNamespace(module=SimpleNamespace(Head=SimpleNamespace(method="ZegCLIP")))
    head.build = lambda: Models(ModelChoice(MINI)).load(MINI_PROXY)
    started = ModelChoice(
        {"device": "cpu", "precision": "fp32"}, checkpoint=Path("runs/zeg"), trained=lambda *_, **__: head
    )
    models = Models(started)
    assert models.pairs[:2] == ("trained: zeg", "mini") and models.methods("trained: zeg") == {"": "ZegCLIP"}
    desk = Desk(models)
    assert titles(desk, "trained: zeg") == [("ZegCLIP", "")] and others(desk, "trained: zeg") == [("nothing", NOTHING)]
    said, last = run(desk, desk.open(OpenImage(image, "scene")), choices=[models.first])
    assert said == ["Loading trained: zeg", "Segmenting with ZegCLIP"] and last["results"][0]["title"] == "ZegCLIP"
    assert models.model_choice(MINI_PROXY) == ModelChoice(MINI | {"method": "proxyclip"})
    with pytest.raises(InputError, match="no method 'clip'"):
        models.check(Choice("trained: zeg", "clip"))


@pytest.mark.parametrize(("name", "seed"), {"street": 9, "room": 34, "coast": 7, "garden": 18}.items())
def test_examples_are_scenes_and_their_names_are_in_them(name, seed):
    image = read_image(file_of(name))
    drawn, labels = scenes.draw(seed, 320)
    assert np.abs(image.astype(float) - drawn).mean() < 8  # 64 colours
    found = {scenes.CLASSES[label] for label in np.unique(labels)}
    assert {names.split(";")[0] for names in EXAMPLES[name].names} == found
    assert file_of(name).stat().st_size < 40_000
