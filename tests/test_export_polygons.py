"""YOLO and labelme polygons: read and drawn by these programs' own rules."""

import json

import cv2
import numpy as np
import pytest
from export_cases import NAMES, RECORD, joined, label_maps, random_labels, result_of
from PIL import Image, ImageDraw

from proxyclip.export import find_format
from proxyclip.export._format import unique_names
from proxyclip.export._polygons import around_pixels, through_pixels
from proxyclip.export.record import ImageRecord
from proxyclip.export.yolo import yaml_text

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


def drawn(shape, polygons) -> np.ndarray:
    """The label map of pairs of a label and a mask (H, W); each pixel must be in exactly one."""
    labels, covered = np.full(shape, -1), np.zeros(shape, int)
    for label, mask in polygons:
        labels[mask.astype(bool)] = label
        covered += mask.astype(bool)
    assert (covered == 1).all()
    return labels


def yolo_lines(labels: np.ndarray, classes=NAMES) -> list[list[str]]:
    data = find_format("yolo", classes).encode(result_of(labels, classes), RECORD)
    return [line.split() for line in data.decode().splitlines()]


def yolo_drawn(labels: np.ndarray, to_integer, classes=NAMES) -> np.ndarray:
    """As readers of YOLO labels draw them: shares times width and height, in float32, as integers, by fillPoly."""
    masks = []
    for label, *corners in yolo_lines(labels, classes):
        polygon = np.array(corners, np.float32).reshape(-1, 2)  # (n, 2)
        assert len(polygon) >= 3 and polygon.min() >= 0 and polygon.max() <= 1
        corners = to_integer(polygon * np.array(labels.shape[::-1], np.float32)).astype(np.int32)
        masks.append((int(label), cv2.fillPoly(np.zeros(labels.shape, np.uint8), [corners], 1)))
    return drawn(labels.shape, masks)


@pytest.mark.parametrize("to_integer", [np.round, np.trunc], ids=["round, as supervision", "cut off, as Ultralytics"])
@pytest.mark.parametrize("name, labels", list(label_maps()))
def test_yolo(name, labels, to_integer):
    np.testing.assert_array_equal(yolo_drawn(labels, to_integer), labels)


@pytest.mark.parametrize("to_integer", [np.round, np.trunc])
def test_yolo_large_image(to_integer):
    """At 20,000 columns, six decimals still name one column."""
    labels = np.zeros((3, 20_000), np.uint8)
    labels[1, 1::501] = 1
    np.testing.assert_array_equal(yolo_drawn(labels, to_integer), labels)


def test_yolo_many_classes():
    classes = [f"class {index}" for index in range(300)]
    labels = np.arange(20 * 30, dtype=np.int32).reshape(20, 30) // 2
    np.testing.assert_array_equal(yolo_drawn(labels, np.round, classes), labels)


def test_yolo_description():
    """Names come back whatever characters they hold."""
    classes = [*NAMES, "yes", "12", "a: b", "- c", "\u2028\ufeff\uffff'\\"]
    files = find_format("yolo", classes).gather(iter(()))
    assert list(files) == ["yolo/data.yaml"]
    assert yaml.safe_load(joined(files["yolo/data.yaml"])) == {
        "train": "images",
        "val": "images",
        "names": dict(enumerate(unique_names(tuple(classes)))),
    }


def test_yaml_text():
    assert yaml_text("sky") == '"sky"'
    assert yaml_text('"') == '"\\U00000022"'


def test_yolo_read_by_supervision(tmp_path):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    export = find_format("yolo", NAMES)
    for folder in ("images", "labels"):
        (tmp_path / "yolo" / folder).mkdir(parents=True)
    maps = {f"{seed}": random_labels(np.random.default_rng(seed)) for seed in range(12)}
    for name, labels in maps.items():
        record = ImageRecord(name, f"{name}.png")
        (tmp_path / export.FOLDER / f"{name}.txt").write_bytes(export.encode(result_of(labels), record))
        Image.fromarray(result_of(labels).image).save(tmp_path / "yolo" / "images" / f"{name}.png")
    (tmp_path / "yolo" / "data.yaml").write_bytes(joined(export.gather(iter(()))["yolo/data.yaml"]))
    data = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo" / "images"), str(tmp_path / "yolo" / "labels"), str(tmp_path / "yolo" / "data.yaml")
    )
    assert data.classes == list(unique_names(NAMES)) and len(data) == len(maps)
    for path, _, found in data:
        labels = maps[path.rsplit("/", 1)[-1].removesuffix(".png")]
        pairs = zip(found.class_id, found.mask, strict=True)
        np.testing.assert_array_equal(drawn(labels.shape, pairs), labels)


def labelme_file(labels: np.ndarray, record=RECORD) -> dict:
    return json.loads(find_format("labelme", NAMES).encode(result_of(labels), record))


def labelme_mask(shape, points) -> np.ndarray:
    """labelme's rule for polygons: Pillow's, with the line."""
    mask = Image.new("L", shape[::-1])
    assert len(points) > 2
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points], outline=1, fill=1)
    return np.asarray(mask)


@pytest.mark.parametrize("name, labels", list(label_maps()))
def test_labelme(name, labels):
    data = labelme_file(labels)
    assert (data["imageHeight"], data["imageWidth"]) == labels.shape
    assert (data["imagePath"], data["imageData"], data["flags"]) == ("image.jpg", None, {})
    assert {shape["shape_type"] for shape in data["shapes"]} == {"polygon"}
    names = unique_names(NAMES)
    masks = [(names.index(shape["label"]), labelme_mask(labels.shape, shape["points"])) for shape in data["shapes"]]
    np.testing.assert_array_equal(drawn(labels.shape, masks), labels)


def test_labelme_read_by_labelme(tmp_path):
    labelme = pytest.importorskip("labelme", reason="labelme, or Qt, is not installed", exc_type=ImportError)
    for name, labels in label_maps():
        record = ImageRecord("日本 1", "sub/日本 1.png")
        (tmp_path / "日本 1.json").write_bytes(find_format("labelme", NAMES).encode(result_of(labels), record))
        Image.fromarray(result_of(labels).image).save(tmp_path / "日本 1.png")
        shapes = labelme.LabelFile(str(tmp_path / "日本 1.json")).shapes
        values = {label: index for index, label in enumerate(unique_names(NAMES))}
        found, _ = labelme.utils.shapes_to_label(labels.shape, shapes, values)
        np.testing.assert_array_equal(found, labels, name)


def test_corners_only():
    """Straight lines have no points in between, in both conventions."""
    mask = np.ones((30, 40), np.uint8)
    assert sorted(map(tuple, through_pixels(mask)[0].tolist())) == [(0, 0), (0, 29), (39, 0), (39, 29)]
    assert sorted(map(tuple, around_pixels(mask)[0].tolist())) == [(0, 0), (0, 30), (40, 0), (40, 30)]
    triangle = np.tril(np.ones((20, 20), np.uint8))
    assert len(through_pixels(triangle)[0]) == 3


def test_hole_is_one_polygon():
    mask = np.ones((10, 12), np.uint8)
    mask[3:6, 4:9] = 0
    for outlines, corners in ((through_pixels, 4 + 8), (around_pixels, 4 + 4)):
        (polygon,) = outlines(mask)
        assert len(polygon) <= corners + 4  # the bridge adds its two ends, there and back
