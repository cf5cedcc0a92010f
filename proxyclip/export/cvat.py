"""CVAT for images 1.1: XML with one run-length encoded mask per connected region; holds every label map exactly.

Create a task with the images and labels of the same names, then upload `cvat.xml` as "CVAT 1.1". Images are matched by
their names. Format: https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from proxyclip.errors import InputError
from proxyclip.export._format import BaseFormat
from proxyclip.export._polygons import class_masks, regions
from proxyclip.export.record import ImageRecord
from proxyclip.pictures.overlay import class_colours
from proxyclip.segmentation import Segmentation

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Format(BaseFormat):
    """CVAT for images, with masks. Raises InputError for a class name with a character that XML cannot hold."""

    FOLDER = "cvat"
    SUFFIX = ".xml"
    GATHERED = True

    def __post_init__(self):
        for name in self.names:
            check_characters(name)

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        """Raises InputError for a file name with a character that XML cannot hold."""
        check_characters(image.file_name)
        height, width = result.labels.shape
        head = f'name={quoteattr(image.file_name)} width="{width}" height="{height}"'
        lines = [f"<image {head}>\n"]
        for label, left, top, class_mask in class_masks(result.labels):
            name = quoteattr(self.names[label])
            for x, y, mask in regions(class_mask):
                box = f'left="{left + x}" top="{top + y}" width="{mask.shape[1]}" height="{mask.shape[0]}"'
                rle = ", ".join(map(str, row_counts(mask)))
                lines.append(f'<mask label={name} source="auto" occluded="0" rle="{rle}" {box} z_order="0"></mask>\n')
        return "".join([*lines, "</image>\n"]).encode()

    def gather(self, parts: Iterator[bytes]) -> dict[str, Iterator[bytes]]:
        return {"cvat.xml": self.document(parts)}

    def document(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        yield b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        yield b"<meta><task><mode>annotation</mode><labels>\n"
        for name, colour in zip(self.names, class_colours(self.classes), strict=True):
            colour = f"<color>#{bytes(colour).hex()}</color>"
            yield f"<label><name>{escape(name)}</name>{colour}<type>mask</type><attributes/></label>\n".encode()
        yield b"</labels></task></meta>\n"
        for number, part in enumerate(parts):
            yield part.replace(b"<image ", b'<image id="%d" ' % number, 1)
        yield b"</annotations>\n"


def row_counts(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn along the rows of a mask (h, w), beginning with those of 0."""
    pixels = mask.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=len(pixels)).tolist()
    return [0, *counts] if pixels[0] else counts


def check_characters(text: str) -> None:
    if found := NOT_IN_XML.search(text):
        raise InputError(f"{text!r} contains the character {found.group()!r}, which XML cannot hold: rename it")
