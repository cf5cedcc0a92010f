"""Label maps that are hard to export, and results made of them."""

import cv2
import numpy as np

from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation

NAMES = ("road", "car; truck", "a \"b\" <c> & 'd'", "日本語 😀", "back\\slash: #1", "sky", "sea", "nothing")
RECORD = ImageRecord("sub/image", "sub/image.jpg")


def label_maps():
    """Pairs of a name and a label map (H, W) uint8 with labels below 7: the last class is never there."""
    yield "one pixel", np.full((1, 1), 3, np.uint8)
    yield "one class", np.full((5, 9), 2, np.uint8)
    yield "row", (np.arange(13, dtype=np.uint8) // 2 % 3)[None]
    yield "column", (np.arange(17, dtype=np.uint8) % 3)[:, None]
    rows, columns = np.indices((12, 17))
    yield "checkerboard", ((rows + columns) % 2).astype(np.uint8)
    yield "diagonals", ((rows + columns) // 2 % 4).astype(np.uint8)
    yield "rings", (np.maximum(abs(rows - 6), abs(columns - 8)) % 4).astype(np.uint8)
    holes = np.zeros((20, 30), np.uint8)
    holes[2:5, 3:6], holes[2:5, 7:9], holes[8:18, 4:26], holes[10:16, 8:22], holes[12, 11] = 1, 1, 2, 0, 3
    yield "holes", holes
    for seed in range(32):
        yield f"random {seed}", random_labels(np.random.default_rng(seed))


def random_labels(random: np.random.Generator) -> np.ndarray:
    """Noise of up to 7 classes, in half of the cases smoothed into regions."""
    height, width, count = random.integers([1, 1, 1], [40, 40, 8])
    scores = random.normal(size=(height, width, count)).astype(np.float32)
    if random.random() < 0.5:
        scores = cv2.GaussianBlur(scores, (0, 0), random.uniform(0.5, 3)).reshape(scores.shape)
    return scores.argmax(axis=2).astype(np.uint8)


def result_of(labels: np.ndarray, classes=NAMES, **fields) -> Segmentation:
    """A result with these labels; image and confidence are grey and constant."""
    image = np.full((*labels.shape, 3), 128, np.uint8)
    return Segmentation(labels, np.ones(labels.shape, np.float32), list(classes), image, **fields)


def joined(chunks) -> bytes:
    return b"".join(chunks)
