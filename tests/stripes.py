"""A Segmentation of stripes, for tests of overlays and saving."""

import numpy as np

from proxyclip.segmentation import Segmentation

NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "table", "dog", "horse", "motorbike", "person", "plant"),
    *("sheep", "sofa", "train", "monitor", "sky", "grass", "tree", "water"),
    *("road", "building", "mountain", "wall", "floor", "window"),
]


def names(count: int) -> list[str]:
    return [f"{NAMES[index % len(NAMES)]} {index // len(NAMES)}" for index in range(count)]


def stripes(height=60, width=80, classes=("road", "car; truck", "sky", "cow"), **fields) -> Segmentation:
    """Vertical stripes, one of each class but the last, on a grey image; confidence rises from left to right."""
    count = max(1, len(classes) - 1)
    labels = np.broadcast_to(np.arange(width) * count // width, (height, width))
    labels = labels.astype(np.uint8 if len(classes) <= 256 else np.int32)
    confidence = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width)).copy()
    image = np.full((height, width, 3), 128, np.uint8)
    return Segmentation(labels, confidence, list(classes), image, **fields)
