"""Pascal Context, 59 classes and background, from the annotations of Pascal in Detail.

Reads   RAW/trainval_merged.json, RAW/JPEGImages/*.jpg (VOC 2010)
Writes  SegmentationClassContext/*.png, ImageSets/SegmentationContext/{train,val}.txt, and links to the images
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from proxyclip.errors import InputError, NotFound

from .tasks import Task, link, save_label, write_lines

FOLDER = "VOCdevkit/VOC2010"
RAW_FOLDER = FOLDER
# The category ids of background and the 59 classes, in label order.
CATEGORIES = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158),
    *(159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366),
    *(368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
LABELS = {category: label for label, category in enumerate(CATEGORIES)}


def decode(rle: dict) -> np.ndarray:
    """(H, W) bool: the mask of a COCO run-length encoding {"size": [H, W], "counts": ...}.

    Runs alternate between 0 and 1, begin with 0, and go down the columns. As a list they are plain numbers. As a
    string each is written in base 32, lowest digit first, as characters from "0" on: 32 is added to all digits but a
    number's last, 16 in the last one means negative, and from the fourth number on it is the change from the one two
    places before.
    """
    counts, (height, width) = rle["counts"], rle["size"]
    if isinstance(counts, str):
        digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
        last = digits & 32 == 0
        starts = np.flatnonzero(np.concatenate(([True], last[:-1])))
        place = np.arange(len(digits)) - np.repeat(starts, np.diff(np.append(starts, len(digits))))
        counts = np.add.reduceat((digits & 31) << 5 * place, starts)
        counts -= np.where(digits[last] & 16, 32 << 5 * place[last], 0)
        counts[1::2] = np.cumsum(counts[1::2])
        counts[2::2] = np.cumsum(counts[2::2])
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)  # (W * H,)
    return runs.reshape(width, height).T  # (H, W)


def convert(source: tuple[dict, list[dict]], part: Path) -> None:
    """`source`: an image's entry and its annotations; where they overlap the later one is on top."""
    image, annotations = source
    label = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation in annotations:
        if (category := annotation["category_id"]) not in LABELS:
            raise InputError(f"{image['file_name']}: category {category} is none of the 60 of Pascal Context")
        try:
            label[decode(annotation["segmentation"])] = LABELS[category]
        except (ValueError, IndexError) as error:
            raise InputError(f"{image['file_name']}: a mask that cannot be decoded: {error}") from None
    save_label(label, part)


def tasks(raw: Path, out: Path) -> list[Task]:
    path = raw / "trainval_merged.json"
    try:
        merged = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(
            f"{path} does not exist; put the annotation file of Pascal in Detail there, or name its folder as RAW"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not complete: {error}") from None
    if not {"images", "annos_segmentation"} <= set(merged):
        raise InputError(f"{path} is not the annotation file of Pascal in Detail: no images or annos_segmentation")
    annotations = defaultdict(list)
    for annotation in merged["annos_segmentation"]:
        annotations[annotation["image_id"]].append(annotation)
    made, stems = [], defaultdict(list)
    for image in merged["images"]:
        stem = Path(image["file_name"]).stem
        stems[image["phase"]].append(stem)
        labels = out / "SegmentationClassContext"
        made.append(Task(convert, (image, annotations[image["image_id"]]), labels / f"{stem}.png"))
        if (photo := raw / "JPEGImages" / f"{stem}.jpg").is_file():
            made.append(Task(link, photo, out / "JPEGImages" / photo.name))
    lists = out / "ImageSets" / "SegmentationContext"
    return made + [Task(write_lines, stems[phase], lists / f"{phase}.txt") for phase in sorted(stems)]
