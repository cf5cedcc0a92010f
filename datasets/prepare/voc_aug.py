"""The augmented training set of Pascal VOC 2012: 10582 images, most of them labelled by SBD.

Reads   RAW/cls/*.mat, RAW/train.txt, RAW/val.txt (SBD, benchmark.tgz; RAW may also be a folder above `dataset`)
Writes  SegmentationClassAug/*.png, ImageSets/Segmentation/trainaug.txt in VOC2012. Images that VOC labels itself keep
        VOC's label, as a link; the validation images of VOC are left out.
"""

from pathlib import Path

import numpy as np

from datasets.folder import listed
from datasets.prepare.matlab import as_label_map, read_mat
from datasets.prepare.tasks import Task, link, save_label, write_lines
from proxyclip.errors import InputError, NotFound

FOLDER = "VOCdevkit/VOC2012"
RAW_FOLDER = "VOCdevkit/VOCaug"


def convert(source: Path, target: Path) -> None:
    variables = read_mat(source)
    try:
        stored = variables["GTcls"]["Segmentation"][0, 0]  # (H, W)
    except (KeyError, ValueError, IndexError, TypeError):
        raise InputError(f"{source} has no GTcls.Segmentation: is it from the folder cls of SBD?") from None
    save_label(as_label_map(stored, 20, source).astype(np.uint8), target)


def tasks(raw: Path, out: Path) -> list[Task]:
    places = (raw, raw / "dataset", raw / "benchmark_RELEASE" / "dataset")
    raw = next((place for place in places if (place / "cls").is_dir()), None)
    if raw is None:
        raise NotFound(f"no folder cls found in {', '.join(map(str, places))}; unpack SBD's benchmark.tgz there")
    lists = out / "ImageSets" / "Segmentation"
    hint = "unpack VOCtrainval_11-May-2012.tar in the data root"
    voc_train = listed(lists / "train.txt", hint)
    voc = {*voc_train, *listed(lists / "val.txt", hint)}
    sbd = {*listed(raw / "train.txt", "it is part of SBD"), *listed(raw / "val.txt", "it is part of SBD")} - voc
    labels = out / "SegmentationClassAug"
    return [
        *(Task(convert, raw / "cls" / f"{stem}.mat", labels / f"{stem}.png") for stem in sorted(sbd)),
        *(Task(link, out / "SegmentationClass" / f"{s}.png", labels / f"{s}.png") for s in voc_train),
        Task(write_lines, [*voc_train, *sorted(sbd)], lists / "trainaug.txt"),
    ]
