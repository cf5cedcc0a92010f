"""Label maps: one stored value per pixel, and the class it stands for.

Shapes: (H, W) int32. A label map is read in the order in which its pixels are stored, and never resized or rotated:
EXIF orientation is for photographs. (Pillow applies that of a TIFF by itself; published label maps have none.)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proxyclip.errors import InputError
from proxyclip.images import decode, open_image

VOID = -1  # in every label map that is read: pixels that are not scored, whatever value the dataset's own files use
INDEX_MODES = ("L", "P", "I", "I;16", "I;16B", "I;16L")  # of Pillow: one integer a pixel, a palette's index included


@dataclass(frozen=True)
class LabelValues:
    """The meaning of the stored values of a dataset.

    classes: number of classes. void: the stored value of pixels that are not scored, None if there is none.
    zero_is_void: whether the stored value 0 is not scored either, and the stored value k means class k - 1.
    """

    dataset: str
    classes: int
    void: int | None = 255
    zero_is_void: bool = False

    def read(self, path: Path) -> np.ndarray:
        """(H, W) int32: class indices, VOID where nothing is scored. InputError on any other stored value."""
        stored = read_indices(path)
        label = stored - 1 if self.zero_is_void else stored.copy()  # 0 becomes VOID
        if self.void is not None:
            label[stored == self.void] = VOID
        if (bad := (label < VOID) | (label >= self.classes)).any():
            known = f"{int(self.zero_is_void)} ... {self.classes - 1 + self.zero_is_void}"
            void = f" or {self.void} (void)" if self.void is not None else ""
            raise InputError(
                f"the label {path} contains the value {stored[bad][0]}, but {self.dataset} uses {known}{void}"
            )
        return label


def read_indices(path: Path) -> np.ndarray:
    """(H, W) int32: the stored values of a label map, which are a palette's indices if it has one."""
    with open_image(path, "label") as image:
        decode(image, f"label {path}")
        if image.mode not in INDEX_MODES:
            raise InputError(f"the label {path} has mode {image.mode}, not one class index per pixel")
        return np.asarray(image).astype(np.int32)
