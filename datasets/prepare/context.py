"""Pascal Context, 59 classes and background, from the annotations of Pascal in Detail.

Reads   RAW/trainval_merged.json, RAW/JPEGImages/*.jpg (VOC 2010)
Writes  SegmentationClassContext/*.png, ImageSets/SegmentationContext/{train,val}.txt (4998 and 5105 images), and links
        to the images
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from datasets.folder import is_whole
from datasets.prepare.tasks import Task, link, save_label, write_lines
from proxyclip.errors import InputError, NotFound
from proxyclip.images import MAX_PIXELS, check_regular_file

FOLDER = "VOCdevkit/VOC2010"
RAW_FOLDER = FOLDER
FILE = "trainval_merged.json"
# What an entry of each list must hold, and of which type.
IMAGE = {"image_id": int, "file_name": str, "phase": str, "height": int, "width": int}
ANNOTATION = {"image_id": int, "category_id": int, "segmentation": dict}
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
    places before. Raises ValueError for anything else.
    """
    counts, (height, width) = rle["counts"], rle["size"]
    if isinstance(counts, str):
        counts = decompress(counts)
    counts = np.array(counts)
    pixels = height * width
    # Each is compared before their sum is: that could overflow, and NumPy would write beyond its memory.
    if counts.max() > pixels or counts.sum() != pixels:
        raise ValueError(f"its runs do not add up to {height}x{width} pixels")
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)  # (W * H,)
    return runs.reshape(width, height).T  # (H, W)


def decompress(text: str) -> np.ndarray:
    """The run lengths of a compressed encoding, see `decode`."""
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = digits & 32 == 0
    starts = np.flatnonzero(np.concatenate(([True], last[:-1])))
    place = np.arange(len(digits)) - np.repeat(starts, np.diff(np.append(starts, len(digits))))
    counts = np.add.reduceat((digits & 31) << 5 * place, starts)
    counts -= np.where(digits[last] & 16, 32 << 5 * place[last], 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def convert(source: tuple[dict, list[dict]], target: Path) -> None:
    """`source`: an image's entry and its annotations; where they overlap the later one is on top."""
    image, annotations = source
    name, size = image["file_name"], (image["height"], image["width"])
    label = np.zeros(size, np.uint8)
    for annotation in annotations:
        if (category := annotation["category_id"]) not in LABELS:
            raise InputError(f"{FILE}: {name}: category {category} is not one of the 60 of Pascal Context")
        try:
            mask = decode(annotation["segmentation"])
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise InputError(f"{FILE}: {name}: a mask cannot be decoded: {error}") from None
        if mask.shape != size:
            raise InputError(f"{FILE}: {name}: a mask has the size {mask.shape}, the image {size} (height, width)")
        label[mask] = LABELS[category]
    save_label(label, target)


def read_annotations(path: Path) -> tuple[list[dict], dict[int, list[dict]]]:
    """The images, and the annotations of each by its id; NotFound or InputError unless all of it can be used."""
    if not path.exists():
        raise NotFound(
            f"{path} does not exist; put the annotation file of Pascal in Detail there, or name its folder as RAW"
        )
    check_regular_file(path, f"the annotation file {path}")
    try:
        merged = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not complete: {error}") from None
    if not isinstance(merged, dict) or not {"images", "annos_segmentation"} <= set(merged):
        raise InputError(f"{path} is not the annotation file of Pascal in Detail: no images or annos_segmentation")
    images = entries(merged, "images", IMAGE, path)
    names = set()
    for image in images:
        name, phase, height, width = (image[key] for key in ("file_name", "phase", "height", "width"))
        if Path(name).name != name or "\\" in name or not name.isprintable() or Path(name).stem in names:
            raise InputError(f"{path}: the file_name {name!r} is not a plain name, or is there twice")
        if not phase.isidentifier():
            raise InputError(f"{path}: {name}: the phase {phase!r} is not a plain name such as train or val")
        if not (is_whole(height, 1) and is_whole(width, 1, MAX_PIXELS // height)):
            raise InputError(f"{path}: {name}: invalid size of {height}x{width} pixels")
        names.add(Path(name).stem)
    annotations = defaultdict(list)
    for annotation in entries(merged, "annos_segmentation", ANNOTATION, path):
        annotations[annotation["image_id"]].append(annotation)
    return images, annotations


def entries(merged: dict, key: str, fields: dict[str, type], path: Path) -> list[dict]:
    """A list of the file, every entry of which holds those fields."""
    if not isinstance(merged[key], list):
        raise InputError(f"{path}: {key} must be a list, not {type(merged[key]).__name__}")
    for number, entry in enumerate(merged[key]):
        for name, kind in fields.items():
            if not isinstance(entry, dict) or type(entry.get(name)) is not kind:
                raise InputError(f"{path}: entry {number} of {key} has no {name} of type {kind.__name__}")
    return merged[key]


def tasks(raw: Path, out: Path) -> list[Task]:
    images, annotations = read_annotations(raw / FILE)
    made, stems = [], defaultdict(list)
    for image in images:
        stem = Path(image["file_name"]).stem
        stems[image["phase"]].append(stem)
        labels = out / "SegmentationClassContext"
        made.append(Task(convert, (image, annotations[image["image_id"]]), labels / f"{stem}.png"))
        if (photo := raw / "JPEGImages" / f"{stem}.jpg").is_file():
            made.append(Task(link, photo, out / "JPEGImages" / photo.name))
    lists = out / "ImageSets" / "SegmentationContext"
    return made + [Task(write_lines, stems[phase], lists / f"{phase}.txt") for phase in sorted(stems)]
