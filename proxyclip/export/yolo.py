"""YOLO segmentation labels: one line per connected region, its class and a polygon in shares of width and height.

Next to `yolo/labels/NAME.txt` belongs the image, as `yolo/images/NAME.jpg` (or another ending); a link to the folder of
the images will do. `yolo/data.yaml` names the classes, and all images for both training and validation: split them as
needed. Read by Ultralytics and, a folder at a time, by supervision.

A hole is joined to the outline by a bridge along a row of pixels. Drawn by OpenCV's fillPoly at the size of the image,
the regions are exactly those of the label map, both by readers that round coordinates (supervision) and by those that
truncate them (Ultralytics). For training, Ultralytics resamples each outline to 1000 points, which moves slanted
outlines by up to a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from proxyclip.export._format import BaseFormat
from proxyclip.export._polygons import class_masks, through_pixels
from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation

OFFSET = 0.45  # pixels; a corner at pixel x is written as x + 0.45, which both rounds and truncates to x


@dataclass(frozen=True)
class Format(BaseFormat):
    """YOLO-seg label files and data.yaml."""

    FOLDER = "yolo/labels"
    SUFFIX = ".txt"

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        height, width = result.labels.shape
        shares = [[f"{(index + OFFSET) / size:.6f}" for index in range(size)] for size in (width, height)]
        lines = []
        for label, left, top, mask in class_masks(result.labels):
            for polygon in through_pixels(mask):
                corners = [f"{shares[0][x + left]} {shares[1][y + top]}" for x, y in polygon.tolist()]
                lines.append(f"{label} {' '.join(corners)}\n")
        return "".join(lines).encode()

    def gather(self, parts: Iterator[bytes]) -> dict[str, Iterator[bytes]]:
        return {"yolo/data.yaml": self.description()}

    def description(self) -> Iterator[bytes]:
        yield b"train: images\nval: images\nnames:\n"
        for label, name in enumerate(self.names):
            yield f"  {label}: {yaml_text(name)}\n".encode()


def yaml_text(text: str) -> str:
    """The text in YAML's double quotes, with escapes for everything that does not print."""
    plain = (character.isprintable() and character not in '"\\' for character in text)
    return '"' + "".join(c if keep else f"\\U{ord(c):08X}" for c, keep in zip(text, plain, strict=True)) + '"'
