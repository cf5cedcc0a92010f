"""COCO files: read by pycocotools and supervision, and streamed."""

import json

import numpy as np
import pytest
from export_cases import NAMES, RECORD, joined, label_maps, random_labels, result_of

from proxyclip.export import find_format
from proxyclip.export._coco import compressed, run_counts
from proxyclip.export._format import unique_names
from proxyclip.export.record import ImageRecord

pycocotools = pytest.importorskip("pycocotools", reason="pycocotools is not installed")
from pycocotools import mask as coco_mask  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402

KINDS = ["coco", "coco-polygons"]


def document(kind: str, results, classes=NAMES) -> bytes:
    """The gathered file of results and their records."""
    export = find_format(kind, classes)
    (file,) = export.gather(export.encode(result, record) for result, record in results).items()
    assert file[0] == f"{kind}.json"
    return joined(file[1])


def read(data: bytes, folder) -> COCO:
    path = folder / "coco.json"
    path.write_bytes(data)
    return COCO(path)


def drawn(coco: COCO, image: int, shape) -> np.ndarray:
    """The label map (H, W) of all annotations; each pixel must be in exactly one."""
    labels, covered = np.full(shape, -1), np.zeros(shape, int)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image)):
        mask = coco.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum() == coco_mask.area(coco.annToRLE(annotation))
        assert annotation["bbox"] == list(coco_mask.toBbox(coco.annToRLE(annotation)))
        labels[mask] = annotation["category_id"] - 1
        covered += mask
    assert (covered == 1).all()
    return labels


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    maps = [labels for _, labels in label_maps()]
    records = [ImageRecord(f"{index}", f"sub/{index}.jpg") for index in range(len(maps))]
    coco = read(document(kind, zip(map(result_of, maps), records, strict=True)), tmp_path)
    assert [category["name"] for category in coco.loadCats(range(1, len(NAMES) + 1))] == list(unique_names(NAMES))
    assert sorted(coco.getImgIds()) == list(range(1, len(records) + 1))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for number, (labels, record) in enumerate(zip(maps, records, strict=True), 1):
        (entry,) = coco.loadImgs([number])
        assert (entry["file_name"], entry["height"], entry["width"]) == (record.file_name, *labels.shape)
        np.testing.assert_array_equal(drawn(coco, number, labels.shape), labels)


def test_annotations_per_image():
    """One per class with masks; one per connected region with polygons, where corners connect."""
    labels = np.array([[0, 1, 1], [1, 0, 1], [2, 1, 1], [1, 1, 2]], np.uint8)
    counted = {}
    for kind in KINDS:
        annotations = json.loads(document(kind, [(result_of(labels), RECORD)]))["annotations"]
        counted[kind] = [annotation["category_id"] for annotation in annotations]
    assert counted == {"coco": [1, 2, 3], "coco-polygons": [1, 2, 3, 3]}


@pytest.mark.parametrize("kind", KINDS)
def test_many_classes(kind, tmp_path):
    classes = [f"class {index}" for index in range(300)]
    labels = (np.arange(20 * 30, dtype=np.int32).reshape(20, 30) // 7) * 5 % 300
    coco = read(document(kind, [(result_of(labels, classes), RECORD)], classes), tmp_path)
    np.testing.assert_array_equal(drawn(coco, 1, labels.shape), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_need_escapes(kind):
    record = ImageRecord("x", 'a "b"\n\\ \udcff 日本.jpg')
    data = document(kind, [(result_of(np.zeros((2, 3), np.uint8)), record)])
    assert json.loads(data)["images"][0]["file_name"] == record.file_name
    assert "日本語 😀".encode() in data


@pytest.mark.parametrize("kind", KINDS)
def test_no_images(kind, tmp_path):
    assert read(document(kind, []), tmp_path).getImgIds() == []


@pytest.mark.parametrize("seed", range(20))
def test_compressed_counts(seed):
    """The text is what pycocotools writes, also for long runs."""
    random = np.random.default_rng(seed)
    mask = np.repeat(random.integers(0, 2, 300), random.integers(1, 10 ** random.integers(1, 5), 300))
    edges = np.flatnonzero(np.diff(mask, prepend=0, append=0))
    text = compressed(run_counts(edges[::2], edges[1::2], mask.size))
    assert text.encode() == coco_mask.encode(np.asfortranarray(mask[:, None], np.uint8))["counts"]


@pytest.mark.parametrize("kind", KINDS)
def test_supervision(kind, tmp_path):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    from PIL import Image

    labels = random_labels(np.random.default_rng(5))
    (tmp_path / "sub").mkdir()
    Image.fromarray(result_of(labels).image).save(tmp_path / RECORD.file_name)
    (tmp_path / "coco.json").write_bytes(document(kind, [(result_of(labels), RECORD)]))
    data = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "coco.json"), force_masks=True)
    ((_, _, found),) = list(data)
    assert data.classes == list(unique_names(NAMES))
    for label in np.unique(labels):
        mask, truth = found.mask[found.class_id == label].any(0), labels == label
        assert (mask & truth).sum() == truth.sum()  # supervision draws polygons through pixels: half a pixel larger
        assert kind == "coco-polygons" or (mask == truth).all()
