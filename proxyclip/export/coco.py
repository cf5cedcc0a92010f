"""COCO JSON with run-length encoded masks, in the compressed form: holds every label map exactly.

`coco.json` has one annotation per class and image, as in COCO-Stuff, with "iscrowd" 0. Category ids are labels + 1: 0
is not used, as many readers reserve it. Read by pycocotools, supervision, Detectron2, MMDetection and FiftyOne.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proxyclip.export._coco import CocoFormat, class_runs, compressed, run_counts


@dataclass(frozen=True)
class Format(CocoFormat):
    """One run-length encoded mask per class."""

    FOLDER = "coco"
    FILE = "coco.json"

    def annotations(self, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
        height, width = labels.shape
        for label, starts, ends in class_runs(labels):
            counts = run_counts(starts, ends, labels.size)
            yield (
                label,
                {
                    "segmentation": {"size": [height, width], "counts": compressed(counts)},
                    "area": int((ends - starts).sum()),
                    "bbox": bounding_box(starts, ends, height),
                },
            )


def bounding_box(starts: np.ndarray, ends: np.ndarray, height: int) -> list[int]:
    """[left, top, width, height] of runs down the columns of an image."""
    lasts = ends - 1
    left, right = starts[0] // height, lasts[-1] // height
    wraps = (starts // height != lasts // height).any()  # a run through the end of a column touches top and bottom
    top, bottom = (0, height - 1) if wraps else ((starts % height).min(), (lasts % height).max())
    return [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]
