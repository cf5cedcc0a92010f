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

from proxyclip.export._format import BaseFormat, json_bytes
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


def class_runs(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each class in a label map (H, W), in label order, with the starts (n,) and ends (n,) of its runs of pixels.

    Positions count down the columns: x H + y. The end is the position after the last pixel.
    """
    pixels = labels.T.ravel()  # (W H,)
    starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
    ends = np.append(starts[1:], len(pixels))
    order = np.argsort(pixels[starts], kind="stable")
    present, first = np.unique(pixels[starts][order], return_index=True)
    for label, runs in zip(present.tolist(), np.split(order, first[1:]), strict=True):
        yield label, starts[runs], ends[runs]


def run_counts(starts: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
    """Lengths of the runs outside and inside the mask in turn, from runs inside a mask of `size` pixels."""
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0)
    return counts if edges[-1] == size else np.append(counts, size - edges[-1])


def compressed(counts: np.ndarray) -> str:
    """The counts as COCO's compressed text.

    From the fourth on, a count is written as its difference from the last but one. Numbers are split into groups of
    five bits, lowest first, until the rest is the sign; each group is one character, 48 + bits, and 32 more where
    another one follows.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    unfinished, columns = np.ones(len(rest), bool), []
    while unfinished.any():
        bits = rest & 31
        rest >>= 5
        more = unfinished & (rest != np.where(bits & 16, -1, 0))
        columns.append(np.where(unfinished, 48 + bits + 32 * more, 0))
        unfinished = more
    characters = np.stack(columns, axis=1).astype(np.uint8).tobytes()  # (n, groups): 0 after the last group
    return characters.replace(b"\0", b"").decode()
