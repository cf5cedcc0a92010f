"""Label maps as PNG files: the value of a pixel is its label, from 0, and the palette has the colours of the classes.

Above 255 classes, the files are 16-bit grey. `labels/classes.txt` lists the classes, one per line: the first line is
label 0. Read by any program for images: `numpy.asarray(PIL.Image.open(path))` is the label map.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from proxyclip.export._format import BaseFormat
from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation


@dataclass(frozen=True)
class Format(BaseFormat):
    """Indexed PNG; holds every label map exactly."""

    FOLDER = "labels"
    SUFFIX = ".png"

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        file = io.BytesIO()
        result.label_image().save(file, "PNG")
        return file.getvalue()

    def gather(self, parts: Iterator[bytes]) -> dict[str, Iterator[bytes]]:
        return {"labels/classes.txt": (f"{name}\n".encode() for name in self.names)}
