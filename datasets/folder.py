"""A split of a dataset as a sequence of images and labels; each pair is read when it is asked for.

Shapes: images (H, W, 3) uint8, RGB; labels (H, W) int32, class indices with VOID (-1) for pixels that are not scored.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from proxyclip.errors import InputError, NotFound

from .segmentation import VOID, SegmentationData

INDEX_MODES = ("L", "P", "I", "I;16", "I;16B", "I;16L")  # of Pillow: one integer a pixel, a palette's index included


class Item(NamedTuple):
    """Where one image and its label lie. The stem names the pair, and may hold folders."""

    stem: str
    image: Path
    label: Path


class Sample(NamedTuple):
    """One image and its label, read."""

    stem: str
    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) int32


class SegmentationFolder(Sequence):
    """The pairs of a split: `len(folder)`, `folder.items[i]` without reading, `folder[i]` read. Picklable.

    Order: the listing's, or sorted by stem. Raises NotFound if a listed or found pair is not complete (unless
    allow_missing), InputError if there is no pair, or one twice.
    """

    def __init__(self, data: SegmentationData, path: Path, split: str = "val", allow_missing: bool = False):
        self.data, self.path, self.split = data, path, split
        files = data.splits[split]
        stems = listed(path / files.listing, data.mend(split)) if files.listing else self._found()
        self.items = [
            Item(s, path / files.images.replace("{}", s), path / files.labels.replace("{}", s)) for s in stems
        ]
        if not allow_missing and (missing := self.missing()):
            more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
            raise NotFound(f"{data.name}: {missing[0]}{more} not found; {data.mend(split)}")

    def _found(self) -> list[str]:
        files = self.data.splits[self.split]
        stems = matching(self.path, files.images) | matching(self.path, files.labels)
        if not stems:
            sought = self.path / files.images.replace("{}", "*")
            raise NotFound(f"{self.data.name}: no file fits {sought}; {self.data.mend(self.split)}")
        return sorted(stems)

    def missing(self) -> list[Path]:
        """The images and labels of `items` that are not there."""
        return [path for item in self.items for path in (item.image, item.label) if not path.is_file()]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
        item = self.items[index]
        image, label = read_image(item.image), read_label(item.label, self.data)
        if image.shape[:2] != label.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width in (image.shape[:2], label.shape))
            raise InputError(f"{item.image} and its label {item.label} have different sizes, {sizes}")
        return Sample(item.stem, image, label)


def listed(path: Path, mend: str) -> list[str]:
    """The stems of a split file: one a line; any line ending, blanks around a stem and empty lines do not matter."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise NotFound(f"the split file {path} does not exist; {mend}") from None
    except UnicodeDecodeError:
        raise InputError(f"the split file {path} is no text in UTF-8") from None
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise InputError(f"the split file {path} lists no image; {mend}")
    if len(set(stems)) < len(stems):
        twice = next(stem for i, stem in enumerate(stems) if stem in stems[:i])
        raise InputError(f"the split file {path} lists {twice} twice")
    return stems


def matching(folder: Path, pattern: str) -> set[str]:
    """The stems of all files below `folder` that fit a pattern, at any depth. Hidden files are left out."""
    before, after = pattern.split("{}")
    top = folder / before.rpartition("/")[0]
    stems = set()
    for parent, _, names in os.walk(top, followlinks=True):
        for name in names:
            path = (Path(parent) / name).relative_to(folder).as_posix()
            if path.startswith(before) and path.endswith(after) and not name.startswith("."):
                stems.add(path[len(before) : len(path) - len(after)])
    return stems


def read_pixels(path: Path, mode: str | None = None) -> tuple[np.ndarray, str]:
    """The decoded pixels of an image file, converted to a Pillow mode if one is given, and the mode it is stored in."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode) if mode else image), image.mode
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} cannot be read as an image: it is none, or its beginning is lost") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's names for a bad file
        raise InputError(f"{path} cannot be read as an image: {error}") from None


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, RGB."""
    return read_pixels(path, "RGB")[0]


def read_indices(path: Path) -> np.ndarray:
    """(H, W) int32: the stored values of a label, which are a palette's indices if it has one."""
    stored, mode = read_pixels(path)
    if mode not in INDEX_MODES:
        raise InputError(f"the label {path} is saved as {mode}, not as one class index a pixel (palette or grey)")
    return stored.astype(np.int32)


def read_label(path: Path, data: SegmentationData) -> np.ndarray:
    """(H, W) int32: class indices, VOID where nothing is scored. InputError on any other stored value."""
    stored = read_indices(path)
    label = stored - 1 if data.zero_is_void else stored.copy()  # 0 becomes VOID
    if data.void is not None:
        label[stored == data.void] = VOID
    if (bad := (label < VOID) | (label >= len(data.classes))).any():
        void = f", nor {data.void} for void" if data.void is not None else ""
        known = f"{int(data.zero_is_void)} ... {len(data.classes) - 1 + data.zero_is_void}"
        raise InputError(
            f"the label {path} holds the value {stored[bad][0]}, which is none of {data.name}'s classes {known}{void}"
        )
    return label
