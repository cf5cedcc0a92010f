"""COCO-Object: the 80 thing classes of COCO-Stuff as labels 1 ... 80, everything else as background 0.

Reads   RAW/annotations/{train2017,val2017}/*.png (raw stuffthingmaps), RAW/images/{train2017,val2017}/*.jpg
Writes  annotations/*/*_instanceTrainIds.png, and links to the images
"""

from functools import partial
from pathlib import Path

from datasets.prepare import coco_stuff
from datasets.prepare.tasks import Task, lookup

FOLDER = "coco_object"
RAW_FOLDER = coco_stuff.FOLDER
TABLE = lookup({raw: label + 1 for raw, label in coco_stuff.LABELS.items() if label < 80}, rest=0)


def tasks(raw: Path, out: Path) -> list[Task]:
    return coco_stuff.tasks(raw, out, "_instanceTrainIds", partial(coco_stuff.convert, table=TABLE))
