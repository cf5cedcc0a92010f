"""Tiny copies of the benchmarks, in the folders and file formats of the official downloads."""

from pathlib import Path

import numpy as np
from PIL import Image

# configuration: image, label, list of stems (all below the data root), two stems
LAYOUTS = {
    "cfg_voc20": (
        "VOCdevkit/VOC2012/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/{}.png",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        ("2007_000033", "2007_000042"),
    ),
    "cfg_context59": (
        "VOCdevkit/VOC2010/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2010/SegmentationClassContext/{}.png",
        "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt",
        ("2008_000002", "2008_000003"),
    ),
    "cfg_context459": (
        "VOCdevkit/VOC2010/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2010/annotations_detectron2/pc459_val/{}.tif",
        "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt",
        ("2008_000002", "2008_000003"),
    ),
    "cfg_coco_object": (
        "coco_object/images/val2017/{}.jpg",
        "coco_object/annotations/val2017/{}_instanceTrainIds.png",
        None,
        ("000000000139", "000000000285"),
    ),
    "cfg_coco_stuff164k": (
        "coco_stuff164k/images/val2017/{}.jpg",
        "coco_stuff164k/annotations/val2017/{}_labelTrainIds.png",
        None,
        ("000000000139", "000000000285"),
    ),
    "cfg_city_scapes": (
        "cityscapes/leftImg8bit/val/{}_leftImg8bit.png",
        "cityscapes/gtFine/val/{}_gtFine_labelTrainIds.png",
        None,
        ("frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019"),
    ),
    "cfg_ade20k": (
        "ade/ADEChallengeData2016/images/validation/{}.jpg",
        "ade/ADEChallengeData2016/annotations/validation/{}.png",
        None,
        ("ADE_val_00000001", "ADE_val_00000002"),
    ),
    "cfg_ade847": (
        "ADE20K_2021_17_01/images_detectron2/validation/{}.jpg",
        "ADE20K_2021_17_01/annotations_detectron2/validation/{}.tif",
        "ADE20K_2021_17_01/validation.txt",
        ("ADE_val_00000001", "ADE_val_00000002"),
    ),
}
TRAIN_LAYOUTS = {
    "cfg_voc20": (
        "VOCdevkit/VOC2012/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2012/SegmentationClassAug/{}.png",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt",
        ("2007_000032", "2007_000039"),
    ),
    "cfg_context59": (
        "VOCdevkit/VOC2010/JPEGImages/{}.jpg",
        "VOCdevkit/VOC2010/SegmentationClassContext/{}.png",
        "VOCdevkit/VOC2010/ImageSets/SegmentationContext/train.txt",
        ("2008_000007", "2008_000008"),
    ),
    "cfg_coco_stuff164k": (
        "coco_stuff164k/images/train2017/{}.jpg",
        "coco_stuff164k/annotations/train2017/{}_labelTrainIds.png",
        None,
        ("000000000009", "000000000025"),
    ),
    "cfg_ade20k": (
        "ade/ADEChallengeData2016/images/training/{}.jpg",
        "ade/ADEChallengeData2016/annotations/training/{}.png",
        None,
        ("ADE_train_00000001", "ADE_train_00000002"),
    ),
}
LAYOUTS["cfg_voc21"] = LAYOUTS["cfg_voc20b"] = LAYOUTS["cfg_voc20"]
LAYOUTS["cfg_context60"] = LAYOUTS["cfg_context59"]


def build(root: Path, config: str, labels: list[np.ndarray], layouts=LAYOUTS) -> list[tuple[str, Path, Path]]:
    """Writes a benchmark of one or two pairs; returns their stems, images and labels.

    labels: (H, W) arrays of the values as the benchmark's own files store them. Images are random, of the same sizes.
    layouts: LAYOUTS or TRAIN_LAYOUTS.
    """
    image, label, listing, stems = layouts[config]
    random = np.random.default_rng(0)
    pairs = []
    for stem, stored in zip(stems, labels, strict=False):
        paths = root / image.format(stem), root / label.format(stem)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*stored.shape, 3), np.uint8)).save(paths[0])
        if paths[1].suffix == ".tif":
            Image.fromarray(stored.astype(np.uint16)).save(paths[1])
        else:
            palette = Image.fromarray(stored.astype(np.uint8))
            if "voc" in config:
                palette.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
            palette.save(paths[1])
        pairs.append((stem, *paths))
    if listing:
        (root / listing).parent.mkdir(parents=True, exist_ok=True)
        (root / listing).write_text("".join(f"{stem}\n" for stem, *_ in pairs))
    return pairs
