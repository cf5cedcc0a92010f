"""A split of a dataset as a sequence of images and label maps, each read on access.

Shapes: images (H, W, 3) uint8, RGB, upright; label maps (H, W) int32, class indices, with VOID (-1) for pixels that are
not scored.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.checks import outside
from datasets.label_map import LabelValues
from datasets.split import Split
from proxyclip.errors import InputError, NotFound
from proxyclip.images import check_regular_file, read_image


class Item(NamedTuple):
    """The files of one image and its label map. The stem names the pair and may contain folders."""

    stem: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Items(Sequence):
    """The pairs of a split, from the names alone: paths of a million images would take a gigabyte."""

    path: Path  # of the dataset's folder
    files: Split
    stems: list[str]

    def __len__(self):
        return len(self.stems)

    def __getitem__(self, index: int | slice) -> "Item | Items":
        if isinstance(index, slice):
            return replace(self, stems=self.stems[index])
        stem = self.stems[index]
        return Item(
            stem, *(self.path / pattern.replace("{}", stem) for pattern in (self.files.images, self.files.labels))
        )


class Sample(NamedTuple):
    """One image and its ground truth."""

    stem: str
    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) int32


class SegmentationFolder(Sequence):
    """The pairs of a split: `len(folder)`, `folder.items[i]` without reading, `folder[i]` read. Picklable.

    path: the dataset's folder. files: the locations of files in it. values: the meaning of label values. how_to_get:
    appended to errors about missing files.

    Pairs are in the order of the listing, or sorted by stem. Raises NotFound if a pair is incomplete (unless
    allow_missing), and InputError if there are no pairs or a pair occurs twice.
    """

    def __init__(
        self, path: Path, files: Split, values: LabelValues, how_to_get: str = "", allow_missing: bool = False
    ):
        self.path, self.files, self.values, self.how_to_get = path, files, values, how_to_get
        stems = listed(path / files.listing, how_to_get) if files.listing else self._found()
        self.items = Items(path, files, stems)
        if not allow_missing and (missing := self.missing()):
            more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
            raise NotFound(f"{values.dataset}: {missing[0]}{more} not found; {how_to_get}")

    def _found(self) -> list[str]:
        stems = matching(self.path, self.files.images) | matching(self.path, self.files.labels)
        if not stems:
            pattern = self.path / self.files.images.replace("{}", "*")
            raise NotFound(f"{self.values.dataset}: no file matches {pattern}; {self.how_to_get}")
        return sorted(stems)

    def missing(self) -> list[Path]:
        """The images and label maps of `items` that do not exist."""
        return [path for item in self.items for path in (item.image, item.label) if not os.path.exists(path)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
        return read_pair(self.items[index], self.values)


def read_pair(item: Item, values: LabelValues) -> Sample:
    """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
    image, label = read_image(item.image), values.read(item.label)
    if image.shape[:2] != label.shape:
        sizes = " and ".join(f"{width}x{height}" for height, width in (image.shape[:2], label.shape))
        raise InputError(f"{item.image} and its label {item.label} have different sizes, {sizes}")
    return Sample(item.stem, image, label)


def listed(path: Path, how_to_get: str) -> list[str]:
    """The stems of a split file: one a line; any line ending, blanks around a stem and empty lines do not matter.

    Raises NotFound, and InputError for a stem that is listed twice or leads out of the dataset's folder.
    """
    if not os.path.exists(path):
        raise NotFound(f"the split file {path} does not exist; {how_to_get}")
    check_regular_file(path, f"the split file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"the split file {path} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot read the split file {path}: {error.strerror}") from None
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise InputError(f"the split file {path} lists no images; {how_to_get}")
    seen = set()
    for stem in stems:
        if stem in seen:
            raise InputError(f"the split file {path} lists {stem} twice")
        seen.add(stem)
    if (stem := outside(stems)) is not None:
        raise InputError(f"the split file {path} lists {stem!r}, which is not a name below the dataset's folder")
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
