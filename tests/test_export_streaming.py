"""Gathered files of 10,000 images are streamed: memory stays flat, and the files can be read."""

import json
import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from export_cases import NAMES, result_of

from proxyclip.export import find_format
from proxyclip.export.record import ImageRecord

IMAGES, LONG = 10_000, "x" * 300  # the names of all images alone take 3 MB


def counts(kind: str, path) -> tuple[int, int, int]:
    """Images, annotations, and different ids of annotations of a gathered file; CVAT's have no ids."""
    if kind == "cvat":
        tags = [element.tag for _, element in ElementTree.iterparse(path)]
        return tags.count("image"), tags.count("mask"), tags.count("mask")
    data = json.loads(path.read_bytes())
    assert len({entry["id"] for entry in data["images"]}) == IMAGES
    return len(data["images"]), len(data["annotations"]), len({entry["id"] for entry in data["annotations"]})


@pytest.mark.parametrize("kind", ["coco", "coco-polygons", "cvat"])
def test_streaming(kind, tmp_path):
    export = find_format(kind, NAMES)
    result = result_of(np.array([[0, 1, 1], [0, 2, 1]], np.uint8))
    template = export.encode(result, ImageRecord("", f"{LONG}77777"))
    parts = (template.replace(b"77777", b"%d" % number) for number in range(1, IMAGES + 1))
    ((name, chunks),) = export.gather(parts).items()
    tracemalloc.start()
    try:
        with open(tmp_path / name, "wb") as file:
            for chunk in chunks:
                assert len(chunk) <= max(len(template), 2**16)
                file.write(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20
    assert counts(kind, tmp_path / name) == (IMAGES, 3 * IMAGES, 3 * IMAGES)
