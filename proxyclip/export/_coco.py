"""COCO's JSON for whole data sets: https://cocodataset.org/#format-data

The part of an image has one line of JSON for its entry in "images" and one for each entry in "annotations". Images and
annotations are numbered when parts are gathered: an id is unique in the whole file.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import ClassVar

import numpy as np

from proxyclip.export._format import BaseFormat
from proxyclip.export._json import json_bytes
from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation

MEMORY, CHUNK = 2**20, 2**16  # bytes


@dataclass(frozen=True)
class CocoFormat(BaseFormat):
    """What the two kinds of COCO files share. FILE: name of the gathered file."""

    SUFFIX = ".jsonl"
    GATHERED = True
    FILE: ClassVar[str]

    @abstractmethod
    def annotations(self, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
        """Label, and "segmentation", "area" and "bbox" of each annotation of a label map (H, W)."""

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        height, width = result.labels.shape
        lines = [{"file_name": image.file_name, "width": width, "height": height}]
        for label, shape in self.annotations(result.labels):
            lines.append({"category_id": label + 1, **shape, "iscrowd": 0})
        return b"\n".join(map(json_bytes, lines))

    def gather(self, parts: Iterator[bytes]) -> dict[str, Iterator[bytes]]:
        return {self.FILE: self.document(parts)}

    def document(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The file in chunks. All annotations come first; the entries of images wait in a temporary file."""
        categories = [{"id": label + 1, "name": name, "supercategory": ""} for label, name in enumerate(self.names)]
        head = {"info": {"description": "labels predicted by proxyclip"}, "licenses": [], "categories": categories}
        yield json_bytes(head)[:-1] + b',"annotations":['
        number, separators = 0, {"image": b"\n", "annotation": b"\n"}
        with SpooledTemporaryFile(MEMORY) as images:
            for image_number, part in enumerate(parts, 1):
                image, *annotations = part.split(b"\n")
                images.write(b'%s{"id":%d,%s' % (separators["image"], image_number, image[1:]))
                separators["image"] = b",\n"
                for annotation in annotations:
                    number += 1
                    start = b'%s{"id":%d,"image_id":%d,' % (separators["annotation"], number, image_number)
                    yield start + annotation[1:]
                    separators["annotation"] = b",\n"
            images.seek(0)
            yield b'\n],"images":['
            while chunk := images.read(CHUNK):
                yield chunk
        yield b"\n]}\n"
