"""A refinement and a background on their way from Python and the command line to models, records and tables."""

import json
import shutil
import sys

import numpy as np
import pytest
import tiny_clip
import tiny_head
import tiny_heads
import tiny_model
from PIL import Image
from test_evaluation_glue import SIZES, evaluate, settings

import demo
import eval as eval_script
import heads
import proxyclip
from configs.load import load_config
from proxyclip.errors import InputError, NotFound
from proxyclip.segmentor import Segmentor
from proxyclip.vocabulary import THRESHOLD, WORDS, Vocabulary, with_background

NAMES = ["sky", "car; truck", "tree", "cow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_heads.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def masks(tmp_path):
    """Left and right half of two images, "one" and "a/two"."""
    regions = np.ones((45, 60), np.uint8)
    regions[:, 25:] = 2
    for name in ("one", "a/two"):
        file = tmp_path / "masks" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(regions).save(file)
    return tmp_path / "masks"


@pytest.mark.parametrize("method", ["proxyclip", "maskclip"])
def test_load_refines_and_says_so(folder, method):
    image = tiny_clip.photograph(45, 60)
    plain, refined, none = (
        proxyclip.load(method=method, **settings(folder), device="cpu", refine=text) for text in (None, "pamr", "none")
    )
    assert plain.refinement is None and none.refinement is None and plain.settings() == none.settings()
    assert "refine" not in plain.settings()
    assert refined.settings() == plain.settings() | {"refine": {"name": "pamr", "steps": 10, "dilations": [8, 16]}}
    one, other = (model.segment(image, NAMES, probabilities=["tree"]) for model in (plain, refined))
    assert other.settings["refine"]["steps"] == 10
    assert not np.allclose(one.confidence, other.confidence, atol=1e-3)
    assert not np.allclose(one.probabilities["tree"], other.probabilities["tree"], atol=1e-3)
    middle = float(np.quantile(other.confidence, 0.5))
    below = refined.segment(image, NAMES, threshold=middle)
    assert np.array_equal(below.labels, np.where(other.confidence < middle, 0, other.labels))
    refined.refinement = None
    again = refined.segment(image, NAMES)
    assert np.array_equal(again.labels, one.labels) and np.array_equal(again.confidence, one.confidence)


def test_the_guide_is_the_image_at_the_size_of_the_labels(folder):
    """In the same place: PAMR keeps edges of the image and blurs what has none."""
    model = proxyclip.load(**settings(folder), device="cpu", refine="pamr:steps=1:dilations=1")
    seen = []
    refine = model.refinement
    model.refinement = lambda maps, guide: seen.append(guide) or refine(maps, guide)
    model.added_settings = dict
    image = np.zeros((45, 60, 3), np.uint8)
    image[:20, 30:] = (255, 128, 0)
    model.segment(image, NAMES, names="a/b")
    (guide,) = seen
    assert guide.name == "a/b" and guide.image.shape == (3, 45, 60)
    difference = np.abs(guide.image.permute(1, 2, 0).numpy() - image / 255)
    assert difference[:17, :27].max() == difference[23:].max() == 0 and difference.mean() < 0.01
    model.predict(model.prepare(image).cpu(), (45, 60), Vocabulary.parse(NAMES), name="c")
    assert seen[1].name == "c" and np.array_equal(seen[1].image, guide.image)


@pytest.mark.parametrize("name", ["zegclip", "otseg"])
def test_heads_load_refines(tmp_path, clip, name, masks):
    run = tiny_heads.saved(tmp_path / "run", name, clip=clip)
    plain = heads.load(run, clip=clip, device="cpu")
    image = tiny_clip.photograph(45, 60)
    for text, title in (("pamr:steps=2", "pamr:steps=2"), (f"masks:{masks}", None)):
        model = heads.load(run, clip=clip, device="cpu", refine=text)
        assert title in (None, model.refinement.title)
        assert model.settings() == plain.settings() | {"refine": model.refinement.settings()}
        result = model.segment(image, tiny_heads.CLASSES, names="one")
        assert not np.array_equal(result.confidence, plain.segment(image, tiny_heads.CLASSES).confidence)
    for half in (result.labels[:, :25], result.labels[:, 25:]):
        assert len(np.unique(half)) == 1


def test_masks_of_images_by_their_names(folder, masks, tmp_path):
    model = proxyclip.load(**settings(folder), device="cpu", refine=f"masks:{masks}")
    image = tiny_clip.photograph(45, 60)
    (tmp_path / "b").mkdir()
    Image.fromarray(image).save(tmp_path / "b" / "one.png")
    expected = model.segment(image, NAMES, names="one")
    assert all(len(np.unique(half)) == 1 for half in (expected.labels[:, :25], expected.labels[:, 25:]))
    for path in (tmp_path / "b" / "one.png", str(tmp_path / "b" / "one.png")):
        assert np.array_equal(model.segment(path, NAMES).confidence, expected.confidence)
    several = model.segment([image, image], NAMES, names=["one", "a/two"])
    assert all(np.array_equal(result.confidence, expected.confidence) for result in several)
    for given, words in (
        ({}, "found by the name of the image"),
        ({"names": "two"}, "there are no masks for image two"),
        ({"names": 3}, "names: entry 0 is 3"),
    ):
        with pytest.raises((InputError, NotFound), match=words):
            model.segment(image, NAMES, **given)
    with pytest.raises(InputError, match="1 names were given for 2 images"):
        model.segment([image, image], NAMES, names=["one"])


def test_eval_records_a_refinement_and_keeps_runs_apart(tmp_path, folder, capsys):
    chosen = settings(folder)
    plain = evaluate(tmp_path, "cfg_voc20", chosen)
    refined = evaluate(tmp_path, "cfg_voc20", chosen | {"refine": "pamr"}, "--resume", "--save-predictions")
    assert "refine" not in plain["changed"] and "refine" not in plain["protocol"]
    assert refined["changed"] == plain["changed"] | {"refine": "pamr"}
    assert refined["protocol"]["refine"] == {"name": "pamr", "steps": 10, "dilations": [8, 16]}
    assert refined["per_class"] != plain["per_class"]
    assert "already evaluated" not in capsys.readouterr().out
    again = evaluate(tmp_path, "cfg_voc20", chosen | {"refine": "pamr"}, "--resume")
    assert all(again[key] == value for key, value in refined.items())
    assert "already evaluated" in capsys.readouterr().out
    fewer = evaluate(tmp_path, "cfg_voc20", chosen | {"refine": "pamr:steps=2"}, "--resume")
    assert fewer["changed"]["refine"] == "pamr:steps=2" and fewer["protocol"] != refined["protocol"]
    assert evaluate(tmp_path, "cfg_voc20", chosen | {"refine": "none"}, "--resume")["protocol"] == plain["protocol"]
    model = proxyclip.load(**chosen, device="cpu", refine="pamr")
    ((file, *_),) = ((file,) for file in sorted((tmp_path / "out" / "predictions").glob("*/*.png"))[:1])
    image = tmp_path / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{file.stem}.jpg"
    assert np.array_equal(np.asarray(Image.open(file)), model.segment(image, load_config("cfg_voc20").queries).labels)


def test_eval_finds_masks_by_stems_and_misses_them_before_it_starts(tmp_path, folder, capsys, monkeypatch):
    chosen = settings(folder)
    evaluate(tmp_path, "cfg_voc20", chosen)
    images = sorted((tmp_path / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages").glob("*.jpg"))
    (tmp_path / "masks").mkdir()
    for image, size in zip(images, SIZES, strict=True):
        Image.fromarray(np.ones(size, np.uint8)).save(tmp_path / "masks" / f"{image.stem}.png")
    line = evaluate(tmp_path, "cfg_voc20", chosen | {"refine": f"masks:{tmp_path / 'masks'}"}, "--save-predictions")
    assert line["changed"]["refine"].startswith("masks:masks ") and line["protocol"]["refine"]["files"] == 2
    files = list((tmp_path / "out" / "predictions").glob("*/*.png"))
    assert len(files) == 2 and all(len(np.unique(np.asarray(Image.open(file)))) == 1 for file in files)
    missing = tmp_path / "masks" / f"{images[1].stem}.png"
    missing.unlink()
    capsys.readouterr()
    monkeypatch.setattr(Segmentor, "predict", None)
    with pytest.raises(SystemExit, match="2"):
        evaluate(tmp_path, "cfg_voc20", chosen | {"refine": f"masks:{tmp_path / 'masks'}"})
    said = capsys.readouterr().err
    assert said == f"error: there are no masks for image {images[1].stem}: {missing} does not exist\n"


def test_eval_of_a_head_takes_a_refinement(tmp_path, clip):
    from test_checkpoint_option import evaluate, trained

    run = trained(tmp_path / "run", clip)
    line = evaluate(tmp_path, "--checkpoint", run, "--set", f"clip={clip}", "refine=pamr:steps=1")
    assert line["changed"]["refine"] == "pamr:steps=1" and line["protocol"]["refine"]["steps"] == 1


def test_eval_refuses_a_wrong_refinement(capsys):
    with pytest.raises(SystemExit, match="2"):
        eval_script.main(["--config", "scenes", "--model", "mini", "--set", "refine=pamr:step=2"])
    assert "pamr has no option 'step'; did you mean steps?" in capsys.readouterr().err


# Background


def test_none_leaves_the_classes_as_they_are():
    assert with_background(NAMES) == with_background(NAMES, "none") == (Vocabulary.parse(NAMES), None)


def test_threshold_asks_for_the_word():
    vocabulary, threshold = with_background(NAMES, "threshold")
    assert vocabulary == Vocabulary.parse(["background", *NAMES]) and threshold == THRESHOLD
    assert with_background(NAMES, "threshold", 0.4)[1] == 0.4 and with_background(NAMES, "threshold", 0)[1] == 0


def test_vocabulary_asks_for_all_words_but_the_user_s_own():
    vocabulary, threshold = with_background(["Trees; bush", "car", "door"], "vocabulary")
    words = [word for word in WORDS if word not in ("tree", "door")]
    assert vocabulary.names == ("background", "Trees; bush", "car", "door") and threshold is None
    assert vocabulary.queries == (*words, "Trees", "bush", "car", "door")
    assert vocabulary.class_of_query == (*[0] * len(words), 1, 1, 2, 3)
    assert vocabulary.lists == (0,) and vocabulary.name_queries[0][: len(words)] == tuple(words)
    assert with_background(NAMES, "vocabulary", 0.3)[1] == 0.3
    assert "sands" not in with_background(["sand"], "vocabulary")[0].queries


def test_the_words_are_those_of_the_benchmarks():
    for config, own in (("cfg_voc21", WORDS), ("cfg_coco_object", set(WORDS))):
        asked = load_config(config).prompts["background"].split("; ")
        assert tuple(asked) == own if own is WORDS else set(asked) <= own


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((NAMES, "none", 0.3), "a threshold needs a background"),
        ((NAMES, "vocab"), "background is 'vocab'; choose one of none, threshold, vocabulary"),
        ((["sky", "Background"], "threshold"), 'the classes contain "background", which background=threshold adds'),
        ((["background; other", "sky"], "vocabulary"), "leave one of them out"),
        ((WORDS, "vocabulary"), "the classes contain all words for the background"),
    ],
)
def test_backgrounds_that_contradict(given, words):
    with pytest.raises(InputError, match=words):
        with_background(*given)


@pytest.mark.parametrize("kind", ["method", "head"])
def test_segment_with_a_background(kind, folder):
    image = tiny_clip.photograph(45, 60)
    model: Segmentor = (
        proxyclip.load(**settings(folder), device="cpu") if kind == "method" else tiny_head.head("zegclip")
    )
    result = model.segment(image, NAMES, background="vocabulary", probabilities=["background", "tree"])
    assert result.classes == ["background", *NAMES] and list(result.probabilities) == ["background", "tree"]
    words = [word for word in WORDS if word not in ("sky", "tree")]
    by_hand = model.segment(image, [*words, *NAMES], probabilities=[*words, *NAMES])
    if kind == "method":  # the words' probabilities are added up
        background = sum(by_hand.probabilities[word] for word in words)
        sums = np.stack([background, *(by_hand.probabilities[name] for name in NAMES)])
        assert np.allclose(result.confidence, sums.max(0), atol=1e-5)
        assert (result.labels == sums.argmax(0)).mean() > 0.999
    else:  # a head's queries answer each other in its decoder, and the order of the queries is the same
        assert np.array_equal(result.labels, np.maximum(by_hand.labels.astype(int) - len(words) + 1, 0))
    middle = float(np.quantile(model.segment(image, ["background", *NAMES]).confidence, 0.5))
    result = model.segment(image, NAMES, background="threshold", threshold=middle)
    assert np.array_equal(result.labels == 0, (result.confidence < middle) | (result.labels == 0))
    assert (result.labels == 0).mean() >= 0.5 and result.settings["threshold"] == middle
    assert model.segment(image, NAMES, background="threshold").settings["threshold"] == THRESHOLD


@pytest.fixture
def run_demo(monkeypatch, tmp_path):
    image, _ = demo.scenes.draw(500)
    Image.fromarray(image).save(tmp_path / "scene.png")

    def run(*options):
        given = ["demo.py", tmp_path / "scene.png", "--classes", "grass,sea,house", "--out", tmp_path / "out", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        demo.main()
        return json.loads((tmp_path / "out" / "scene.json").read_text())

    return run


def test_demo_with_refinement_and_background(run_demo):
    plain = run_demo()
    refined = run_demo("--refine", "pamr:steps=2", "--background", "threshold")
    assert refined["settings"]["refine"]["steps"] == 2 and "refine" not in plain["settings"]
    assert refined["settings"]["threshold"] == THRESHOLD
    assert [entry["name"] for entry in refined["classes"]] == ["background", "grass", "sea", "house"]
    listed = run_demo("--background", "vocabulary", "--threshold", "0.9", "--heatmap", "background")
    assert listed["settings"]["threshold"] == 0.9 and listed["classes"][0]["name"] == "background"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "0.3"], "a threshold needs a background"),
        (["--background", "all"], "background is 'all'; choose one of none, threshold, vocabulary"),
        (["--refine", "pam"], "unknown refinement 'pam'"),
        (["--refine", "masks:nowhere"], "the folder of masks nowhere does not exist"),
    ],
)
def test_demo_says_what_is_wrong(run_demo, options, words, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        run_demo(*options)
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and words in said.err and said.err.count("\n") == 1
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
