"""Cityscapes: the 19 evaluated classes from the full label ids.

Reads   RAW/gtFine/{train,val}/CITY/*_gtFine_labelIds.png, RAW/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
Writes  gtFine/*/CITY/*_gtFine_labelTrainIds.png, and links to the images
"""

from pathlib import Path

from datasets.label_map import read_indices
from datasets.prepare.tasks import Task, converted, found, link, lookup, save_label

FOLDER = "cityscapes"
RAW_FOLDER = FOLDER
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # label ids, in label order
TABLE = lookup({raw: label for label, raw in enumerate(EVALUATED)}, rest=255)


def convert(source: Path, target: Path) -> None:
    save_label(converted(TABLE, read_indices(source), source), target)


def tasks(raw: Path, out: Path) -> list[Task]:
    made = []
    hint = f"unpack gtFine_trainvaltest.zip in {raw}, or name as RAW the folder where it is"
    for path in found(raw / "gtFine", "*/*/*_gtFine_labelIds.png", hint):
        split, city = path.parts[-3:-1]
        stem = path.name.removesuffix("_gtFine_labelIds.png")
        if split != "test":  # its labels are withheld: the files that are there hold nothing
            made.append(Task(convert, path, out / "gtFine" / split / city / f"{stem}_gtFine_labelTrainIds.png"))
            image = Path("leftImg8bit") / split / city / f"{stem}_leftImg8bit.png"
            if (raw / image).is_file():
                made.append(Task(link, raw / image, out / image))
    return made
