"""An image and its results, as they are held for the page, and the maps that the browser draws.

Shapes: H × W the image, h × w as the page shows it, K classes.
"""

import gzip
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from proxyclip.pictures.display import nearest, smooth
from proxyclip.pictures.heatmap import quantised
from proxyclip.segmentation import Segmentation

LONGEST = 1280  # pixels of a side on the page; results are held and downloaded at the size of the image
MOST_VALUES = 32_000_000  # of the probabilities of all classes that are computed at once: 128 MB
PERCENT = 100


@dataclass(eq=False)
class OpenImage:
    """image: (H, W, 3) uint8. name: of its file. results: the keys of those that the page shows."""

    image: np.ndarray
    name: str
    results: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return self.image.nbytes

    def shown(self) -> bytes:
        """The image (h, w, 3) as a JPEG."""
        stream = io.BytesIO()
        small = smooth(self.image, shown_size(*self.image.shape[:2]))
        Image.fromarray(small).save(stream, "JPEG", quality=92, subsampling=0)
        return stream.getvalue()


@dataclass(eq=False)
class Result:
    """A segmentation, and the probabilities of its classes as the page shows them.

    title: the method. choice, task: what computed it. image: the key of the image. heat: class -> its map, packed;
    those that were not computed with the labels are added when someone asks for them.
    """

    segmentation: Segmentation
    title: str
    choice: object
    task: object
    image: str
    heat: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, segmentation: Segmentation, title: str, choice, task, image: str) -> "Result":
        """Takes the probabilities out of the segmentation: at full size, they are as large as K images."""
        result = cls(segmentation, title, choice, task, image)
        for name, probability in segmentation.probabilities.items():
            result.heat[segmentation.classes.index(name)] = percent_map(probability)
        segmentation.probabilities = {}
        return result

    @property
    def nbytes(self) -> int:
        parts = self.segmentation.labels, self.segmentation.confidence, self.segmentation.image
        return sum(part.nbytes for part in parts) + sum(map(len, self.heat.values()))

    def labels(self) -> bytes:
        """(h, w) packed: one byte a pixel, or two with the lower one first above 256 classes."""
        labels = self.segmentation.labels
        small = nearest(labels, shown_size(*labels.shape))  # (h, w)
        return packed(small.astype("<u2" if len(self.segmentation.classes) > 256 else np.uint8))

    def confidence(self) -> bytes:
        """(h, w) packed: the probability of the winning name in percent, a byte a pixel."""
        return percent_map(self.segmentation.confidence)

    def facts(self) -> dict:
        """What the page shows beside the image, as JSON types; areas are shares of all pixels."""
        return {"title": self.title, "areas": list(self.segmentation.areas().values())}


def eager(classes: tuple[str, ...], image: np.ndarray) -> tuple[str, ...]:
    """The classes whose probabilities are computed with the labels: all, unless they would fill the memory."""
    height, width = image.shape[:2]
    return classes if len(classes) * height * width <= MOST_VALUES else ()


def shown_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) -> (h, w), at most LONGEST."""
    factor = min(1, LONGEST / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def percent_map(probability: np.ndarray) -> bytes:
    """(H, W) in [0, 1] -> (h, w) packed, a byte a pixel, 0 to 100."""
    small = nearest(probability, shown_size(*probability.shape))  # (h, w)
    return packed(np.rint(quantised(small, np.uint16) * (PERCENT / 65535)).astype(np.uint8))


def packed(values: np.ndarray) -> bytes:
    """The values row by row, compressed as browsers unpack them by themselves."""
    return gzip.compress(np.ascontiguousarray(values).tobytes(), compresslevel=4, mtime=0)
