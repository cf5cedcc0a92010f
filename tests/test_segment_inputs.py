"""What `segment` takes and what it gives."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_clip
from PIL import Image

import proxyclip
from proxyclip.errors import InputError, NotFound

CLASSES = ["cat", "dog; hound", "sky"]


@pytest.fixture(scope="module")
def model():
    return tiny_clip.model(crop=40, stride=24)


@pytest.fixture
def idle(model, monkeypatch):
    """The model, when nothing may be computed."""

    def unexpected(*args):
        raise AssertionError("the model ran")

    monkeypatch.setattr(model, "window_scores", unexpected)
    return model


@pytest.fixture(scope="module")
def photograph():
    return tiny_clip.photograph(50, 71)


@pytest.fixture(scope="module")
def result(model, photograph):
    return model.segment(photograph, CLASSES, probabilities=["sky", "hound"])


def test_the_result(result, photograph, model):
    assert isinstance(result, proxyclip.Segmentation)
    assert result.labels.shape == (50, 71) and result.labels.dtype == np.uint8
    assert result.confidence.shape == (50, 71) and result.confidence.dtype == np.float32
    assert result.labels.max() < 3 and len(np.unique(result.labels)) > 1
    assert (result.confidence > 0.2).all() and (result.confidence <= 1).all()
    assert result.classes == CLASSES
    assert np.array_equal(result.image, photograph) and result.image is not photograph
    assert list(result.probabilities) == ["sky", "dog; hound"]
    for name, probability in result.probabilities.items():
        assert probability.shape == (50, 71) and probability.dtype == np.float32
        won = result.labels == CLASSES.index(name)
        assert np.array_equal(probability[won], result.confidence[won])
        assert (probability[~won] <= result.confidence[~won]).all()
    assert {field.name for field in dataclasses.fields(result)} == {
        *("labels", "confidence", "classes", "image", "settings", "probabilities")
    }


def test_the_settings(result, model):
    assert json.loads(json.dumps(result.settings)) == model.settings() | {"threshold": 0.0, "synonyms": "sum"}
    assert result.settings["crop"] == 40 and result.settings["vfm"] == "tiny"


@pytest.mark.parametrize("kind", ["path", "text", "pillow", "array", "alpha"])
def test_pictures_of_every_kind(model, photograph, result, tmp_path, kind):
    path = tmp_path / "photo.png"
    image = Image.fromarray(photograph)
    image.save(path)
    opaque = np.dstack([photograph, np.full((50, 71), 255, np.uint8)])
    given = {"path": path, "text": str(path), "pillow": image, "array": photograph, "alpha": opaque}[kind]
    again = model.segment(given, CLASSES)
    assert np.array_equal(again.labels, result.labels) and np.array_equal(again.confidence, result.confidence)


def test_a_grey_picture(model):
    grey = tiny_clip.photograph(30, 41)[..., 0]
    one, other = model.segment([grey, grey[..., None].repeat(3, axis=2)], CLASSES)
    assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("container", [list, tuple])
def test_lists_give_lists(model, photograph, result, container):
    results = model.segment(container([photograph, Image.fromarray(photograph[:30])]), tuple(CLASSES))
    assert isinstance(results, list)
    assert [found.labels.shape for found in results] == [(50, 71), (30, 71)]
    assert np.array_equal(results[0].labels, result.labels)
    assert model.segment([], CLASSES) == []


def test_one_at_a_time(model, photograph):
    """More pictures than fit in memory: read only when their turn comes."""
    read = []

    def sources():
        for index in range(6):
            read.append(index)
            yield photograph[: 30 + index]

    stream = model.segment_each(sources(), CLASSES, batch_windows=1)
    assert next(stream).labels.shape == (30, 71) and len(read) <= 2
    assert [found.labels.shape[0] for found in stream] == [31, 32, 33, 34, 35]


@pytest.mark.parametrize(
    ("classes", "options", "sentence"),
    [
        ([], {}, "no classes were given"),
        ("cat", {}, r"write \['cat'\]"),
        (["cat", "cat"], {}, "class 'cat' is given twice, as number 0 and 1"),
        (["cat", ""], {}, "class 1 .* has an empty name"),
        (CLASSES, {"threshold": 1.5}, "threshold is 1.5; it must be a probability"),
        (CLASSES, {"threshold": -0.1}, "threshold is -0.1"),
        (CLASSES, {"threshold": float("nan")}, "threshold is nan"),
        (CLASSES, {"batch_windows": 0}, "batch_windows is 0"),
        (CLASSES, {"batch_windows": -3}, "batch_windows is -3"),
        (CLASSES, {"probabilities": ["skj"]}, "'skj' is none of the classes; did you mean sky"),
        (CLASSES, {"probabilities": "sky"}, "probabilities must be a list of names, not the single string"),
        (CLASSES, {"max_pixels": 100}, "more than max_pixels=100"),
    ],
)
def test_bad_values(idle, photograph, classes, options, sentence):
    for images in (photograph, [photograph]):
        with pytest.raises(InputError, match=sentence):
            idle.segment(images, classes, **options)


@pytest.mark.parametrize("threshold", [0, 1, 0.5])
def test_thresholds_that_work(model, photograph, threshold):
    result = model.segment(photograph, CLASSES, threshold=threshold)
    assert (result.labels[result.confidence < threshold] == 0).all()


def test_bad_pictures(idle, tmp_path):
    (tmp_path / "words.png").write_text("no picture")
    for source, kind, sentence in (
        (tmp_path / "none.png", NotFound, "none.png does not exist"),
        (tmp_path / "words.png", InputError, "unsupported format or corrupted file"),
        (tmp_path, InputError, "is a folder"),
        (3, InputError, "must be a path, a PIL image or an array"),
        (np.zeros((4, 5, 3)), InputError, "must be uint8"),
        (np.zeros((0, 5, 3), np.uint8), InputError, "is empty"),
    ):
        with pytest.raises(kind, match=sentence):
            idle.segment(source, CLASSES)


def test_errors_are_also_python_s_own(idle):
    with pytest.raises(ValueError):
        idle.segment("photo.png", [])
    with pytest.raises(FileNotFoundError):
        idle.segment("no such photo.png", CLASSES)


def test_a_bad_picture_in_a_list_stops_it(model, photograph):
    with pytest.raises(NotFound, match="missing.png does not exist"):
        model.segment([photograph, "missing.png"], CLASSES)
