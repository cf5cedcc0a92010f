"""Pascal Context with all 459 classes, validation images.

Reads   RAW/trainval/*.mat (trainval.tar.gz of Pascal Context: `LabelMap`, 1 ... 459) and the split that the converter
        `context` writes
Writes  annotations_detectron2/pc459_val/*.tif (uint16, 0 ... 458)
"""

from pathlib import Path

import numpy as np

from datasets.folder import listed
from datasets.prepare.matlab import as_label_map, read_mat
from datasets.prepare.tasks import Task, save_label
from proxyclip.errors import InputError

FOLDER = "VOCdevkit/VOC2010"
RAW_FOLDER = FOLDER


def convert(source: Path, target: Path) -> None:
    variables = read_mat(source)
    if "LabelMap" not in variables:
        raise InputError(f"{source} has no LabelMap: is it from Pascal Context's trainval.tar.gz?")
    stored = as_label_map(variables["LabelMap"], 459, source)  # (H, W)
    save_label(stored.astype(np.uint16) - np.uint16(1), target)  # a pixel without a class, 0, becomes 65535


def tasks(raw: Path, out: Path) -> list[Task]:
    split = out / "ImageSets" / "SegmentationContext" / "val.txt"
    stems = listed(split, "run python -m datasets.prepare context first")
    labels = out / "annotations_detectron2" / "pc459_val"
    return [Task(convert, raw / "trainval" / f"{stem}.mat", labels / f"{stem}.tif") for stem in stems]
