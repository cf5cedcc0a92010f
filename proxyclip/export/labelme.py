"""labelme's JSON: one file per image, with one polygon per connected region.

The file belongs beside its image: copy the folder `labelme` over the folder of the images, then open that in labelme.
`labelme/labels.txt` is for its option --labels. A hole is joined to the outline by a bridge along a row of pixels.
Drawn by labelme's `shape_to_mask`, the regions are exactly those of the label map.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from proxyclip.export._format import BaseFormat, json_bytes
from proxyclip.export._polygons import class_masks, through_pixels
from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation

VERSION = "5.5.0"  # labelme writes its own version here and reads any


@dataclass(frozen=True)
class Format(BaseFormat):
    """labelme polygons."""

    FOLDER = "labelme"
    SUFFIX = ".json"

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        height, width = result.labels.shape
        shapes = [
            {
                "label": self.names[label],
                "points": (polygon + (left, top)).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for label, left, top, mask in class_masks(result.labels)
            for polygon in through_pixels(mask)
        ]
        return json_bytes(
            {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": PurePath(image.file_name).name,
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            }
        )

    def gather(self, parts: Iterator[bytes]) -> dict[str, Iterator[bytes]]:
        return {"labelme/labels.txt": (f"{name}\n".encode() for name in self.names)}
