"""CVAT for images: the XML by its documented schema, and by datumaro's reader."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from export_cases import NAMES, RECORD, joined, label_maps, result_of
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.export import find_format
from proxyclip.export._format import unique_names
from proxyclip.export.record import ImageRecord


def document(results, classes=NAMES) -> bytes:
    export = find_format("cvat", classes)
    files = export.gather(export.encode(result, record) for result, record in results)
    assert list(files) == ["cvat.xml"]
    return joined(files["cvat.xml"])


def mask_of(element, shape) -> np.ndarray:
    """The mask (H, W) of one <mask>: runs of 0 and 1 in turn, along the rows of a box."""
    left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
    pixels = []
    for index, count in enumerate(element.attrib["rle"].split(",")):
        pixels += [index % 2] * int(count)
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = np.reshape(pixels, (height, width))
    return mask


def labels_of(image) -> np.ndarray:
    """The label map (H, W) of one <image>; each pixel must be in exactly one mask."""
    shape = int(image.attrib["height"]), int(image.attrib["width"])
    labels, covered = np.full(shape, -1), np.zeros(shape, int)
    for element in image:
        assert (element.tag, element.attrib["occluded"], element.attrib["z_order"]) == ("mask", "0", "0")
        mask = mask_of(element, shape)
        assert mask.any(0).sum() == int(element.attrib["width"]) and mask.any(1).sum() == int(element.attrib["height"])
        labels[mask] = unique_names(NAMES).index(element.attrib["label"])
        covered += mask
    assert (covered == 1).all()
    return labels


def test_round_trip():
    maps = [labels for _, labels in label_maps()]
    records = [ImageRecord(f"{index}", f"sub/{index} <&\"'>.jpg") for index in range(len(maps))]
    root = ElementTree.fromstring(document(zip(map(result_of, maps), records, strict=True)))
    assert (root.tag, root.findtext("version")) == ("annotations", "1.1")
    assert [label.findtext("name") for label in root.iter("label")] == list(unique_names(NAMES))
    images = root.findall("image")
    assert [image.attrib["name"] for image in images] == [record.file_name for record in records]
    assert [int(image.attrib["id"]) for image in images] == list(range(len(maps)))
    for image, labels in zip(images, maps, strict=True):
        np.testing.assert_array_equal(labels_of(image), labels)


def test_one_mask_per_region():
    """Pixels that touch at a corner are one region; a region inside the hole of another one is its own."""
    labels = np.ones((7, 8), np.uint8)
    labels[1:6, 1:6] = 0
    labels[3, 3], labels[4, 4] = 1, 1
    (image,) = ElementTree.fromstring(document([(result_of(labels), RECORD)])).findall("image")
    assert sorted(mask.attrib["label"] for mask in image) == ["car", "car", "road"]


def test_read_by_datumaro(tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed", exc_type=ImportError)
    maps = dict(label_maps())
    (tmp_path / "images").mkdir()
    results = []
    for name, labels in maps.items():
        results.append((result_of(labels), ImageRecord(name, f"{name}.png")))
        Image.fromarray(result_of(labels).image).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "annotations.xml").write_bytes(document(results))
    data = datumaro.Dataset.import_from(str(tmp_path), "cvat")
    assert len(data) == len(maps)
    for item in data:
        found = np.full(maps[item.id].shape, -1)
        for annotation in item.annotations:
            found[annotation.image.astype(bool)] = annotation.label
        np.testing.assert_array_equal(found, maps[item.id])


def test_characters_that_xml_cannot_hold():
    with pytest.raises(InputError, match="XML cannot hold"):
        find_format("cvat", ["road", "a\uffff"])
    result = result_of(np.zeros((2, 3), np.uint8))
    with pytest.raises(InputError, match="XML cannot hold"):
        find_format("cvat", NAMES).encode(result, ImageRecord("a", "a\udcff.jpg"))
