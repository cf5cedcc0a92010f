"""Formats: found by name, names of classes, and the formats without a program of their own."""

import io
import subprocess
import sys

import numpy as np
import pytest
from export_cases import NAMES, RECORD, label_maps, result_of
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.export import find_format, format_names
from proxyclip.export._format import unique_names

ALL = ["coco", "coco-polygons", "cvat", "labelme", "labels", "overlay", "probabilities", "yolo"]


def image_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_names_of_formats():
    assert format_names() == ALL
    for name in ALL:
        export = find_format(name, list(NAMES))
        assert export.classes == NAMES
        assert not export.FOLDER.startswith("/") and export.SUFFIX.startswith(".")
        assert (name in ("coco", "coco-polygons", "cvat")) == export.GATHERED
        assert (name == "probabilities") == export.PROBABILITIES
    assert len({find_format(name, NAMES).FOLDER for name in ALL}) == len(ALL)


@pytest.mark.parametrize("name, hint", [("labelsme", "did you mean"), ("record", "Known"), ("_coco", "Known")])
def test_unknown_format(name, hint):
    with pytest.raises(InputError, match=f"unknown format '{name}'.*{hint}.*coco-polygons"):
        find_format(name, NAMES)


def test_names_need_no_library():
    heavy = "{'numpy', 'cv2', 'torch', 'PIL'}"
    code = f"import sys, proxyclip.export as export; export.format_names(); assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unique_names():
    assert unique_names(("car; truck", "sky")) == ("car", "sky")
    # "bank 2" is the name of another class: the second "bank" takes the next number.
    assert unique_names(("bank; shore", "bank; house", "bank 2", "bank")) == ("bank", "bank 3", "bank 2", "bank 4")


@pytest.mark.parametrize("name, labels", list(label_maps()))
def test_labels(name, labels):
    image = image_of(find_format("labels", NAMES).encode(result_of(labels), RECORD))
    np.testing.assert_array_equal(np.asarray(image), labels)
    palette = np.array(image.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(palette[: len(NAMES)], result_of(labels).colours())


def test_labels_of_many_classes():
    classes = [f"class {index}" for index in range(300)]
    labels = np.arange(20 * 30, dtype=np.int32).reshape(20, 30) % 300
    image = image_of(find_format("labels", classes).encode(result_of(labels, classes), RECORD))
    np.testing.assert_array_equal(np.asarray(image), labels)


@pytest.mark.parametrize("name, path", [("labels", "labels/classes.txt"), ("labelme", "labelme/labels.txt")])
def test_list_of_classes(name, path):
    files = find_format(name, NAMES).gather(iter([b"a part"]))
    assert list(files) == [path]
    assert b"".join(files[path]).decode().splitlines() == list(unique_names(NAMES))


def test_overlay():
    labels = np.zeros((60, 90), np.uint8)
    labels[:, 40:] = 1
    result = result_of(labels)
    image = image_of(find_format("overlay", NAMES).encode(result, RECORD))
    expected = result.overlay()
    assert (image.format, image.size) == ("JPEG", expected.size)
    assert np.abs(np.asarray(image, int) - np.asarray(expected.convert("RGB"), int)).mean() < 3


def test_probabilities():
    random = np.random.default_rng(0)
    maps = random.dirichlet(np.ones(len(NAMES)), size=(9, 14)).transpose(2, 0, 1).astype(np.float32)
    by_name = dict(zip(reversed(NAMES), maps[::-1], strict=True))  # in another order
    result = result_of(maps.argmax(0).astype(np.uint8), probabilities=by_name)
    with np.load(io.BytesIO(find_format("probabilities", NAMES).encode(result, RECORD))) as archive:
        assert archive["probabilities"].dtype == np.float16
        np.testing.assert_array_equal(archive["probabilities"], maps.astype(np.float16))
        assert tuple(archive["classes"]) == unique_names(NAMES)


def test_probabilities_that_are_missing():
    result = result_of(np.zeros((2, 3), np.uint8), probabilities={"road": np.ones((2, 3), np.float32)})
    with pytest.raises(InputError, match="no probabilities for 'car; truck'"):
        find_format("probabilities", NAMES).encode(result, RECORD)
