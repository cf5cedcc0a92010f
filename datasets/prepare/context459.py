"""Pascal Context with all 459 classes, validation images.

Reads   RAW/trainval/*.mat (trainval.tar.gz of Pascal Context: `LabelMap`, 1 ... 459) and the split that the converter
        `context` writes
Writes  annotations_detectron2/pc459_val/*.tif (uint16, 0 ... 458)
"""

from pathlib import Path

import numpy as np

from proxyclip.errors import InputError

from ..folder import listed
from .tasks import Task, read_mat, save_label

FOLDER = "VOCdevkit/VOC2010"
RAW_FOLDER = FOLDER


def convert(source: Path, part: Path) -> None:
    try:
        stored = read_mat(source)["LabelMap"]  # (H, W)
    except KeyError:
        raise InputError(f"{source} holds no LabelMap: is it of Pascal Context's trainval.tar.gz?") from None
    save_label(stored.astype(np.uint16) - np.uint16(1), part)  # a pixel without a class, 0, becomes 65535


def tasks(raw: Path, out: Path) -> list[Task]:
    split = out / "ImageSets" / "SegmentationContext" / "val.txt"
    stems = listed(split, "run python -m datasets.prepare context first")
    labels = out / "annotations_detectron2" / "pc459_val"
    return [Task(convert, raw / "trainval" / f"{stem}.mat", labels / f"{stem}.tif") for stem in stems]
