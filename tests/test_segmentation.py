"""Segmentation: areas, summary, and files that are written whatever a result holds."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from stripes import names, stripes

from proxyclip import segmentation
from proxyclip.errors import InputError
from proxyclip.files import class_parts, output_names, writable_folder, write_image, write_whole

# Numbers


def test_areas():
    areas = stripes(10, 30).areas()
    assert areas == {"road": 1 / 3, "car; truck": 1 / 3, "sky": 1 / 3, "cow": 0}


def test_summary():
    summary = stripes(10, 30, settings={"beta": 1.2}).summary()
    assert (summary["height"], summary["width"], summary["settings"]) == (10, 30, {"beta": 1.2})
    road, _, _, cow = summary["classes"]
    assert (road["label"], road["name"], cow["mean_confidence"], cow["area"]) == (0, "road", None, 0)
    assert road["mean_confidence"] == pytest.approx(np.linspace(0, 1, 30)[:10].mean())


# Files


def test_save(tmp_path):
    probability = np.full((60, 80), 0.25, np.float32)
    result = stripes(settings={"clip": "tiny"}, probabilities={"car; truck": probability})
    written = result.save(tmp_path / "new" / "out", stem="street", caption="a caption")
    expected = {
        "overlay": "street_overlay.png",
        "labels": "street_labels.png",
        "heatmap car; truck": "street_heatmap_car.png",
        "probability car; truck": "street_probability_car.png",
        "json": "street.json",
    }
    assert {what: path.name for what, path in written.items()} == expected
    assert sorted(os.listdir(tmp_path / "new" / "out")) == sorted(expected.values())  # no temporary files either

    labels = Image.open(written["labels"])
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), result.labels)
    np.testing.assert_array_equal(np.asarray(labels.convert("RGB")), result.colours()[result.labels])
    assert np.unique(np.asarray(Image.open(written["probability car; truck"]))).tolist() == [16384]
    assert Image.open(written["overlay"]).size == result.overlay(caption="a caption").size
    summary = json.loads(written["json"].read_text(encoding="utf-8"))
    assert summary == result.summary()
    assert summary["classes"][1]["colour"] == "#" + bytes(result.colours()[1].tolist()).hex()


def test_more_than_255_classes_are_saved_as_sixteen_bits(tmp_path):
    result = stripes(20, 900, names(300))
    labels = Image.open(result.save(tmp_path)["labels"])
    assert labels.mode.startswith("I")
    np.testing.assert_array_equal(np.asarray(labels), result.labels)
    assert result.labels.max() > 255
    assert Image.open(stripes(20, 900, names(256)).save(tmp_path)["labels"]).mode.startswith("I")
    assert Image.open(stripes(20, 900, names(255)).save(tmp_path)["labels"]).mode == "P"


def test_names_in_file_names_are_harmless_and_distinct():
    """Also where a file system takes upper and lower case for the same."""
    parts = class_parts(["a/b", "a b; c", "../..", "Bäume", "a_b-2", "A B", "\ud800", "空" * 50])
    assert parts == ["a_b", "a_b-2", "class", "Bäume", "a_b_2", "A_B-3", "class-2", "空" * 20]


@pytest.mark.parametrize(
    "stem", ["", " ", "../x", "a/b", "/etc/x", "a\\b", "..", ".", "a\0b", "\ud800", "x" * 209, "空" * 70, None, 3]
)
def test_a_stem_that_cannot_begin_a_file_name(tmp_path, stem):
    result = stripes(probabilities={"sky": np.zeros((60, 80), np.float32)})
    with pytest.raises(InputError, match=r"^stem .* (cannot start a file name|is too long for file names): .+"):
        result.save(tmp_path / "out", stem=stem)
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("letter", ["x", "空"])
def test_the_longest_stem_and_class_names_are_saved(tmp_path, letter):
    """The longest that the error allows is accepted, and no name that comes of it is too long for the file system."""
    classes = [letter * 100_000, letter * 100_000 + "2"]
    result = stripes(classes=classes, probabilities=dict.fromkeys(classes, np.zeros((60, 80), np.float32)))
    with pytest.raises(InputError, match="at most") as caught:
        output_names(letter * 300, classes)
    most = int(str(caught.value).split()[-2]) // len(letter.encode())
    paths = result.save(tmp_path, stem=letter * most)
    assert len(set(paths.values())) == 7
    assert all(path.is_file() for path in paths.values())
    with pytest.raises(InputError):
        result.save(tmp_path, stem=letter * (most + 1))


def strict_json(path) -> dict:
    """Without Python's own NaN and Infinity."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_bytes().decode(), parse_constant=refuse)


def test_settings_of_any_type_are_saved(tmp_path):
    settings = {
        "beta": np.float32(1.5), "crop": np.int64(336), "flag": np.bool_(True), "mean": np.arange(3) / 2,
        "nan": float("nan"), "inf": np.float64("inf"), "folder": tmp_path, 3: (1, {"deep": [np.float16("nan")]}),
        "dtype": np.float32, "set": {1}, "none": None, "text": "空", "torch": torch.tensor([1.5, float("nan")]),
    }  # fmt: skip
    summary = strict_json(stripes(settings=settings).save(tmp_path)["json"])
    assert summary["settings"] == {
        "beta": 1.5, "crop": 336, "flag": True, "mean": [0, 0.5, 1], "nan": None, "inf": None,
        "folder": str(tmp_path), "3": [1, {"deep": [None]}], "dtype": str(np.float32), "set": [1], "none": None,
        "text": "空", "torch": [1.5, None],
    }  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_confidence_that_is_no_number(tmp_path, value):
    result = stripes(probabilities={"sky": np.full((60, 80), value, np.float32)})
    result.confidence[:, 0] = value
    road, car, *_ = strict_json(result.save(tmp_path)["json"])["classes"]
    assert road["mean_confidence"] is None
    assert car["mean_confidence"] > 0


def test_half_characters_in_class_names(tmp_path):
    """UTF-8 cannot hold a lone surrogate, JSON can: it comes back from the JSON as it was."""
    classes = ["\ud800", "sky\udcff; heaven", "cow"]
    result = stripes(classes=classes, probabilities={"\ud800": np.zeros((60, 80), np.float32)})
    summary = strict_json(result.save(tmp_path, caption="\ud800")["json"])
    assert [entry["name"] for entry in summary["classes"]] == classes


@pytest.mark.parametrize("full", ["_overlay.png", "_heatmap_sky.png", "_labels.png", "_probability_sky.png"])
def test_a_full_disk_costs_one_image_and_says_which(tmp_path, monkeypatch, full):
    """Files that hold numbers are written before overlays."""
    result = stripes(probabilities={"sky": np.full((60, 80), 0.5, np.float32)})
    writing = []

    def spy(path, image):
        writing.append(path.name)
        return write_image(path, image)

    def save(self, file, format):
        if writing[-1].endswith(full):
            raise OSError(errno.ENOSPC, "No space left on device")
        return pillow_save(self, file, format)

    pillow_save = Image.Image.save
    monkeypatch.setattr(segmentation, "write_image", spy)
    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(InputError, match=rf"{full}: No space left on device$") as caught:
        result.save(tmp_path, stem="street")
    assert "\n" not in str(caught.value)
    order = [".json", "_labels.png", "_probability_sky.png", "_overlay.png", "_heatmap_sky.png"]
    assert sorted(os.listdir(tmp_path)) == sorted(f"street{name}" for name in order[: order.index(full)])


def test_a_full_disk_at_the_json(tmp_path, monkeypatch):
    def refuse(path, write):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segmentation, "write_whole", refuse)
    with pytest.raises(InputError, match=r"cannot write .*/segmentation\.json: No space left on device$"):
        stripes().save(tmp_path)


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "labels.png"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["labels.png"]


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_in_the_folder_s_place(tmp_path, inside):
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(InputError, match="cannot create the output folder .*: a file of that name exists"):
        writable_folder(path / inside)
    with pytest.raises(InputError):
        stripes().save(path / inside)
    assert path.read_text() == "mine"


def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match="cannot write to the output folder .*: Permission denied"):
        writable_folder(tmp_path)


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(InputError, match=r"^cannot write to the output folder .*/out: Permission denied$"):
        writable_folder(tmp_path / "out")


def test_wrong_types_are_refused_before_anything_is_written(tmp_path):
    result = stripes()
    for folder, options in ((None, {}), (3, {}), (tmp_path / "out", {"caption": 3}), (tmp_path / "out", {"stem": 3})):
        with pytest.raises(InputError):
            result.save(folder, **options)
    for alpha in ("0.5", None, float("nan")):
        with pytest.raises(InputError, match="alpha is "):
            result.overlay(alpha=alpha)
    assert not list(tmp_path.iterdir())
