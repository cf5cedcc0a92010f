"""Segmentation: areas, colours, pictures and files."""

import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.files import writable_folder, write_whole
from proxyclip.pictures import legend
from proxyclip.pictures.overlay import borders, colours_over, heat_colours, heatmap
from proxyclip.pictures.palette import class_colours, oklab, palette, srgb
from proxyclip.segmentation import Segmentation, file_names

NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "table", "dog", "horse", "motorbike", "person", "plant"),
    *("sheep", "sofa", "train", "monitor", "sky", "grass", "tree", "water"),
    *("road", "building", "mountain", "wall", "floor", "window"),
]


def names(count: int) -> list[str]:
    return [f"{NAMES[index % len(NAMES)]} {index // len(NAMES)}" for index in range(count)]


def segmentation(height=60, width=80, classes=("road", "car; truck", "sky", "cow"), **fields) -> Segmentation:
    """Vertical stripes: one of each class, the last class absent; a grey photograph."""
    count = max(1, len(classes) - 1)
    labels = np.broadcast_to(np.arange(width) * count // width, (height, width))
    labels = labels.astype(np.uint8 if len(classes) <= 256 else np.int32)
    confidence = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width)).copy()
    image = np.full((height, width, 3), 128, np.uint8)
    return Segmentation(labels, confidence, list(classes), image, **fields)


# Colours


def test_oklab_of_white_and_back():
    np.testing.assert_allclose(oklab(np.ones(3)), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(oklab(np.array([1.0, 0, 0])), [0.628, 0.2249, 0.1258], atol=1e-3)  # as published
    colours = palette() / 255
    np.testing.assert_allclose(srgb(oklab(colours)), colours, atol=1e-6)


def test_colours_of_names_are_fixed():
    sky, grass = class_colours(["sky", "grass"]).tolist()
    assert sky == [0, 187, 238]
    assert grass == [17, 187, 119]


def closest(colours: np.ndarray) -> float:
    lab = oklab(colours / 255)
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))


def test_thirty_classes_are_well_apart_and_not_black():
    colours = class_colours(NAMES)
    assert len(NAMES) == 30
    assert closest(colours) > 0.09
    assert oklab(colours / 255)[:, 0].min() > 0.4


def test_many_classes_still_differ():
    assert closest(class_colours(names(60))) > 0.05
    assert len(np.unique(class_colours(names(847)), axis=0)) == 847
    assert len(class_colours(names(len(palette()) + 50))) == len(palette()) + 50


def test_colours_belong_to_names_whatever_their_order_and_case():
    colours = dict(zip(NAMES, class_colours(NAMES).tolist(), strict=True))
    turned = dict(zip(NAMES[::-1], class_colours(NAMES[::-1]).tolist(), strict=True))
    assert colours == turned
    assert class_colours(["Car; truck"]).tolist() == class_colours(["car"]).tolist()


def test_names_that_want_the_same_colour_get_two():
    alone = {name: tuple(class_colours([name])[0].tolist()) for name in names(100)}
    clashes = [pair for pair in itertools.combinations(alone, 2) if alone[pair[0]] == alone[pair[1]]]
    assert clashes
    for pair in clashes:
        both = [tuple(colour) for colour in class_colours(list(pair)).tolist()]
        assert both[0] != both[1]
        assert alone[pair[0]] in both  # one of them keeps its own


# Numbers


def test_areas():
    areas = segmentation(10, 30).areas()
    assert areas == {"road": 1 / 3, "car; truck": 1 / 3, "sky": 1 / 3, "cow": 0}


def test_summary():
    summary = segmentation(10, 30, settings={"beta": 1.2}).summary()
    assert (summary["height"], summary["width"], summary["settings"]) == (10, 30, {"beta": 1.2})
    road, _, _, cow = summary["classes"]
    assert (road["label"], road["name"], cow["mean_confidence"], cow["area"]) == (0, "road", None, 0)
    assert road["mean_confidence"] == pytest.approx(np.linspace(0, 1, 30)[:10].mean())


# Pictures


def test_colours_lie_over_the_photograph():
    labels = np.zeros((400, 400), np.uint8)
    labels[:, 200:] = 1
    image = np.zeros((400, 400, 3), np.uint8)
    image[:200] = 200  # a bright half, a dark half
    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    picture = np.asarray(colours_over(image, labels, colours, alpha=0.5))
    assert picture[100, 100].tolist() == [228, 100, 100]
    assert picture[300, 300].tolist() == [0, 0, 128]
    assert picture[300, 199].min() > 180  # the line between the two
    np.testing.assert_array_equal(np.asarray(colours_over(image, labels, colours, alpha=0))[100, 100], [200] * 3)


def test_borders():
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    assert borders(labels, 1).astype(int).tolist() == [[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert borders(labels[:1, :1], 3).tolist() == [[False]]


def test_tiny_photographs_are_enlarged_with_sharp_labels():
    result = segmentation(30, 40, classes=("road", "car", "sky"))
    picture = result.overlay(legend=False)
    assert picture.size == (320, 240)
    assert len(np.unique(np.asarray(picture)[120], axis=0)) == 3  # two flat colours and the line


@pytest.mark.parametrize("height, width", [(1, 300), (300, 1), (1, 1), (40, 30), (400, 600), (600, 400), (3, 3000)])
@pytest.mark.parametrize("count", [1, 4, 30, 300])
def test_overlay_of_any_shape_holds_its_legend(height, width, count):
    result = segmentation(height, width, names(count))
    plain, full = result.overlay(legend=False), result.overlay(note="random weights: the colours mean nothing")
    assert full.width >= plain.width
    assert full.height > plain.height
    assert full.width > plain.width or width >= height  # beside a portrait
    assert full.width * full.height < 20 * max(plain.width * plain.height, 500 * 500)


def written_words(monkeypatch) -> list[str]:
    """Collects whatever is drawn as text."""
    words = []
    draw_text = legend.ImageDraw.ImageDraw.text

    def spy(self, position, text, *args, **options):
        words.append(text)
        return draw_text(self, position, text, *args, **options)

    monkeypatch.setattr(legend.ImageDraw.ImageDraw, "text", spy)
    return words


def test_legend_names_what_is_there_largest_first(monkeypatch):
    words = written_words(monkeypatch)
    result = segmentation(400, 600, ("road; street", "car", "sky", "cow"))
    result.labels[:] = 0
    result.labels[:, 150:] = 2
    result.labels[0, :2] = 1
    result.overlay()
    assert words == ["sky", "75 %", "road", "25 %", "car", "< 0.1 %"]


def test_legend_counts_what_does_not_fit(monkeypatch):
    words = written_words(monkeypatch)
    assert segmentation(400, 600, names(300)).overlay().height < 1.7 * 400
    shown = len([word for word in words if word in names(300)])
    assert shown >= 20
    assert words[-1] == f"+ {299 - shown} more"


def test_long_names_are_cut_and_notes_broken(monkeypatch):
    words = written_words(monkeypatch)
    note = "a note that is much longer than the picture below it is wide, " * 3
    segmentation(320, 320, ["x" * 200, "cow"]).overlay(note=note)
    assert words[0].endswith("x…")
    assert len(words[0]) < 60
    assert " ".join(words[2:]) == note.strip()
    assert len(words) > 4


def test_letters_beyond_ascii(monkeypatch):
    monkeypatch.setattr(legend, "SYSTEM_FONTS", ())
    assert legend.letters(["Bäume", "sky", "空"], 14)[0] == ["Baume", "sky", "?"]
    assert legend.letters(["plain"], 14)[1].getname()[0] == "Aileron"


def test_heat_colours_rise_evenly_from_dark_to_light():
    lightness = oklab(heat_colours() / 255)[:, 0]
    steps = np.diff(lightness)
    assert lightness[0] < 0.2
    assert lightness[-1] > 0.9
    assert (steps > 0).all()
    assert steps.reshape(-1, 15).mean(axis=1).std() < 0.1 * steps.mean()


def test_heatmap_has_its_scale_beside_it():
    probability = np.linspace(0, 1, 500, dtype=np.float32)[None].repeat(300, axis=0)
    picture = heatmap(np.zeros((300, 500, 3), np.uint8), probability, alpha=1)
    assert picture.height == 300
    assert picture.width > 500
    drawn = np.asarray(picture)
    np.testing.assert_array_equal(drawn[150, [0, 499]], heat_colours()[[0, 255]])
    # The bar runs from 1 at the top to 0 at the bottom.
    size = legend.font_size(300, 500)
    bar = drawn[:, 500 + size + 3].astype(int)
    np.testing.assert_allclose(bar[size], heat_colours()[255], atol=3)
    np.testing.assert_allclose(bar[-size - 1], heat_colours()[0], atol=3)


# Files


def test_save(tmp_path):
    probability = np.full((60, 80), 0.25, np.float32)
    result = segmentation(settings={"clip": "tiny"}, probabilities={"car; truck": probability})
    written = result.save(tmp_path / "new" / "out", stem="street", note="a note")
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
    assert Image.open(written["overlay"]).size == result.overlay(note="a note").size
    summary = json.loads(written["json"].read_text(encoding="utf-8"))
    assert summary == result.summary()
    assert summary["classes"][1]["colour"] == "#" + bytes(result.colours()[1].tolist()).hex()


def test_more_than_255_classes_are_saved_as_sixteen_bits(tmp_path):
    result = segmentation(20, 900, names(300))
    labels = Image.open(result.save(tmp_path)["labels"])
    assert labels.mode.startswith("I")
    np.testing.assert_array_equal(np.asarray(labels), result.labels)
    assert result.labels.max() > 255
    assert Image.open(segmentation(20, 900, names(256)).save(tmp_path)["labels"]).mode.startswith("I")
    assert Image.open(segmentation(20, 900, names(255)).save(tmp_path)["labels"]).mode == "P"


def test_file_names_are_harmless_and_distinct():
    assert file_names(["a/b", "a b; c", "../..", "Bäume", "a_b-2"]) == ["a_b", "a_b-2", "class", "Bäume", "a_b_2"]


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
    with pytest.raises(InputError, match="cannot be made: a file of that name is in its place"):
        writable_folder(path / inside)
    with pytest.raises(InputError):
        segmentation().save(path / inside)
    assert path.read_text() == "mine"


def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match="cannot be written to: Permission denied"):
        writable_folder(tmp_path)


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(InputError, match=r"^output folder .*/out cannot be written to: Permission denied$"):
        writable_folder(tmp_path / "out")
