"""COCO-Stuff: labels 0 ... 170 from the raw stuffthingmaps, which number 182 classes of which 11 never occur.

Reads   RAW/annotations/{train2017,val2017}/*.png, RAW/images/{train2017,val2017}/*.jpg (either part may be absent)
Writes  annotations/*/*_labelTrainIds.png, and links to the images
"""

from pathlib import Path

import numpy as np

from datasets.label_map import read_indices
from datasets.prepare.tasks import Task, converted, link, lookup, save_label
from proxyclip.errors import NotFound

FOLDER = "coco_stuff164k"
RAW_FOLDER = FOLDER
NEVER = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
LABELS = {raw: label for label, raw in enumerate(sorted(set(range(182)) - NEVER))}
TABLE = lookup(LABELS, rest=255)


def convert(source: Path, target: Path, table: np.ndarray = TABLE) -> None:
    save_label(converted(table, read_indices(source), source), target)


def tasks(raw: Path, out: Path, suffix: str = "_labelTrainIds", convert=convert) -> list[Task]:
    """`suffix`, `convert`: what COCO-Object, which reads the same files, does otherwise."""
    made = []
    for part in ("val2017", "train2017"):
        # The outputs may lie in the same folder; only a raw file's name is a plain number.
        labels = sorted(path for path in (raw / "annotations" / part).glob("*.png") if path.stem.isdigit())
        made += [Task(convert, path, out / "annotations" / part / f"{path.stem}{suffix}.png") for path in labels]
        images = [raw / "images" / part / f"{path.stem}.jpg" for path in labels]
        made += [Task(link, path, out / "images" / part / path.name) for path in images if path.is_file()]
    if not made:
        raise NotFound(
            f"no raw label in {raw / 'annotations'}/val2017 or train2017; unpack stuffthingmaps_trainval2017.zip in "
            f"{raw / 'annotations'}"
        )
    return made
