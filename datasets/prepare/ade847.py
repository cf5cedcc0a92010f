"""ADE20K with its 847 most frequent classes, validation images.

Reads   RAW/images/ADE/validation/**/ADE_val_*.jpg and the *_seg.png beside them (ADE20K_2021_17_01)
Writes  images_detectron2/validation/*.jpg, annotations_detectron2/validation/*.tif (uint16), validation.txt

As the converter of MaskFormer (prepare_ade20k_full_sem_seg.py), with whose outputs published scores were measured: a
short side above 512 is reduced to it, images by OpenCV's bilinear and labels by its nearest neighbour, and every image
is encoded again with Pillow's default quality. So the images are new files here, not links to the download; their
bytes depend on the version of the JPEG library within Pillow, as those of the published runs do.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.prepare.tasks import Task, found, save_label, write_lines
from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.images import decode, open_image, read_image, resize

FOLDER = "ADE20K_2021_17_01"
RAW_FOLDER = FOLDER
SHORT_SIDE = 512
IDS = [int(word) for word in Path(__file__).with_name("ade847_ids.txt").read_text().split()]  # in label order
TABLE = np.full(26 * 256, 65535, np.uint16)  # R // 10 is at most 25
TABLE[IDS] = range(len(IDS))


def reduced(height: int, width: int) -> tuple[int, int]:
    """(H, W) with a short side of at most 512."""
    if min(height, width) <= SHORT_SIDE:
        return height, width
    if width >= height:
        return SHORT_SIDE, round(width / height * SHORT_SIDE)
    return round(height / width * SHORT_SIDE), SHORT_SIDE


def convert_image(source: Path, target: Path) -> None:
    image = read_image(source)  # (H, W, 3)
    image = resize(image, reduced(*image.shape[:2]))  # (h, w, 3)
    write_whole(target, lambda file: Image.fromarray(image).save(file, "JPEG"))


def convert_label(source: Path, target: Path) -> None:
    with open_image(source, "label") as image:
        decode(image, f"label {source}")
        if image.mode != "RGB":
            raise InputError(f"the label {source} has mode {image.mode}, not RGB")
        stored = np.asarray(image)  # (H, W, 3)
    label = TABLE[stored[..., 0].astype(int) // 10 * 256 + stored[..., 1]]  # (H, W)
    height, width = reduced(*label.shape)
    save_label(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST), target)  # (h, w)


def tasks(raw: Path, out: Path) -> list[Task]:
    hint = (
        f"{raw} must be the folder ADE20K_2021_17_01 of ADE20K_2021_17_01.zip: unpack that, or name as RAW where it is"
    )
    photos = found(raw / "images" / "ADE" / "validation", "**/ADE_val_*.jpg", hint)
    images, labels = out / "images_detectron2" / "validation", out / "annotations_detectron2" / "validation"
    stems = sorted(photo.stem for photo in photos)
    return [
        *(Task(convert_image, photo, images / photo.name) for photo in photos),
        *(Task(convert_label, p.with_name(f"{p.stem}_seg.png"), labels / f"{p.stem}.tif") for p in photos),
        Task(write_lines, stems, out / "validation.txt"),
    ]
