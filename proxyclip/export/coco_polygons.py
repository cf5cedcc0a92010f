"""COCO JSON with polygons.

`coco-polygons.json` has one annotation per connected region, with one polygon along the edges of its pixels. A hole is
joined to the outline by a bridge without width. Drawn by pycocotools, the regions are exactly those of the label map.
Category ids are labels + 1: 0 is not used, as many readers reserve it. Read by pycocotools, supervision, Detectron2,
MMDetection, FiftyOne, CVAT and Label Studio.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from proxyclip.export._coco import CocoFormat
from proxyclip.export._polygons import around_pixels, class_masks


@dataclass(frozen=True)
class Format(CocoFormat):
    """One polygon per connected region."""

    FOLDER = "coco-polygons"
    FILE = "coco-polygons.json"

    def annotations(self, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
        for label, left, top, mask in class_masks(labels):
            for polygon in around_pixels(mask):
                polygon += (left, top)
                x, y, width, height = cv2.boundingRect(polygon)  # counts corners, one more than there are pixels
                yield (
                    label,
                    {
                        "segmentation": [polygon.ravel().tolist()],
                        "area": int(cv2.contourArea(polygon)),
                        "bbox": [x, y, width - 1, height - 1],
                    },
                )
