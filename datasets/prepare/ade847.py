"""ADE20K with its 847 most frequent classes, validation images.

Reads   RAW/images/ADE/validation/**/ADE_val_*.jpg and the *_seg.png beside them (ADE20K_2021_17_01)
Writes  images_detectron2/validation/*.jpg, annotations_detectron2/validation/*.tif (uint16), validation.txt.
        Images with a short side above 512 are reduced to it, as in the published runs; all others are linked.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import from_numpy
from torch.nn.functional import interpolate

from ..folder import read_image, read_pixels
from .tasks import Task, found, link, save_label, write_lines

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


def convert_image(source: Path, part: Path) -> None:
    with Image.open(source) as image:
        width, height = image.size
    if (size := reduced(height, width)) == (height, width):
        link(source, part)
        return
    pixels = from_numpy(read_image(source)).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
    # Without antialiasing, because the published images were made so.
    pixels = interpolate(pixels, size, mode="bilinear").round().byte()[0].permute(1, 2, 0)  # (h, w, 3)
    Image.fromarray(pixels.numpy()).save(part, "JPEG", quality=95)


def convert_label(source: Path, part: Path) -> None:
    stored = read_pixels(source, "RGB")[0]  # (H, W, 3)
    ids = stored[..., 0].astype(int) // 10 * 256 + stored[..., 1]  # (H, W)
    height, width = reduced(*ids.shape)
    rows = np.arange(height) * ids.shape[0] // height
    columns = np.arange(width) * ids.shape[1] // width
    save_label(TABLE[ids[rows][:, columns]], part)  # (h, w)


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
