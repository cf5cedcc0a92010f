"""A split of a dataset as a sequence of images and label maps, each read on access.

Shapes: images (H, W, 3) uint8, RGB, upright; label maps (H, W) int32, class indices, with VOID (-1) for pixels that are
not scored.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from datasets.label_map import LabelValues
from proxyclip.errors import InputError, NotFound
from proxyclip.images import check_regular_file, read_image


@dataclass(frozen=True)
class Split:
    """Where the images and the ground truth of one split are.

    images, labels: patterns below the dataset's folder; `{}` stands for the stem, which may contain folders
    ("frankfurt/frankfurt_000000_000294"). listing: a text file below the folder with one stem per line; empty: every
    image and every label that matches. count: the expected number of images; several numbers where published copies
    differ. prepare: the converters that write the labels, in order (`python -m datasets.prepare NAME`); empty if the
    download contains them.

    Raises InputError for a field of the wrong type.
    """

    images: str
    labels: str
    listing: str = ""
    count: tuple[int, ...] = ()
    prepare: tuple[str, ...] = ()

    def __post_init__(self):
        for field in ("images", "labels"):
            pattern = getattr(self, field)
            check_text(pattern, f"Split.{field}")
            if pattern.count("{}") != 1:
                raise InputError(f"the pattern {pattern!r} must contain {{}} exactly once, in place of the stem")
        if not isinstance(self.listing, str):
            raise InputError(f"Split.listing must be a path below the dataset's folder, not {self.listing!r}")
        if not isinstance(self.count, tuple) or not all(is_whole(number, 1) for number in self.count):
            raise InputError(f"Split.count must be a tuple of whole numbers such as (1449,), not {self.count!r}")
        checked_names(self.prepare, "Split.prepare")


class PairFiles(NamedTuple):
    """The files of one image and its label map. The stem names the pair and may contain folders."""

    stem: str
    image: Path
    label: Path


@dataclass(frozen=True)
class PairList(Sequence):
    """The pairs of a split, from the names alone: paths of a million images would take a gigabyte."""

    path: Path  # of the dataset's folder
    files: Split
    stems: list[str]

    def __len__(self):
        return len(self.stems)

    def __getitem__(self, index: int | slice) -> "PairFiles | PairList":
        if isinstance(index, slice):
            return replace(self, stems=self.stems[index])
        stem = self.stems[index]
        return PairFiles(
            stem, *(self.path / pattern.replace("{}", stem) for pattern in (self.files.images, self.files.labels))
        )


class ImagePair(NamedTuple):
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
        self.items = PairList(path, files, stems)
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

    def __getitem__(self, index: int) -> ImagePair:
        """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
        return read_pair(self.items[index], self.values)


def read_pair(item: PairFiles, values: LabelValues) -> ImagePair:
    """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
    image, label = read_image(item.image), values.read(item.label)
    if image.shape[:2] != label.shape:
        sizes = " and ".join(f"{width}x{height}" for height, width in (image.shape[:2], label.shape))
        raise InputError(f"{item.image} and its label {item.label} have different sizes, {sizes}")
    return ImagePair(item.stem, image, label)


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


def check_text(value, what: str) -> None:
    """InputError unless the value is a non-empty string that can be printed on one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InputError(f"{what} must be a non-empty string, not {value!r}")


def check_plain_name(value, what: str) -> None:
    """A text that can be part of a file's name."""
    check_text(value, what)
    if value in (".", "..") or "/" in value or "\\" in value:
        raise InputError(f"{what} must be a name without / or \\, not {value!r}")


def checked_names(value, what: str) -> tuple[str, ...]:
    """A tuple of names, all different."""
    if isinstance(value, str):
        raise InputError(f"{what} is a single string, {value!r}: a tuple of one name needs a comma, ({value!r},)")
    if not isinstance(value, (tuple, list)):
        raise InputError(f"{what} must be a tuple of names, not {value!r}")
    seen = set()
    for name in value:
        check_text(name, f"a name in {what}")
        if name in seen:
            raise InputError(f"{what} must be all different; {name!r} is given twice")
        seen.add(name)
    return tuple(value)


def is_whole(value, lowest: int, highest: int | None = None) -> bool:
    """Whether a value is an int, not a bool, from `lowest` to `highest`."""
    return type(value) is int and value >= lowest and (highest is None or value <= highest)


def outside(paths: Iterable[str]) -> str | None:
    """The first of some relative paths that would leave the folder it is put below; None if all stay inside."""
    return next((path for path in paths if leaves(path)), None)


def leaves(path: str) -> bool:
    pure = PurePosixPath(path.replace("\\", "/"))
    return pure.is_absolute() or ".." in pure.parts or not path.isprintable()


class LabelledFolder(Sequence):
    """LABELS/a/b.png with the image IMAGES/a/b of any format: `items[i]` names a pair, `[i]` reads it.

    classes: number of classes, with the background; a label map holds 0 for the background, k for the class k, and 255
    where nothing is scored. Raises NotFound for a folder, or a label map without image, and InputError for a label map
    with several.
    """

    def __init__(self, images: Path, labels: Path, classes: int):
        for folder in (images, labels):
            if not folder.is_dir():
                raise NotFound(f"the folder {folder} does not exist")
        self.values = LabelValues("the class list", classes)
        found = {path.relative_to(labels).with_suffix("").as_posix(): path for path in sorted(labels.rglob("*.png"))}
        if not found:
            raise NotFound(f"the folder of labels {labels} contains no .png file")
        self.items = [PairFiles(stem, image_of(images, stem), label) for stem, label in found.items()]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index: int) -> ImagePair:
        """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
        return read_pair(self.items[index], self.values)


def image_of(folder: Path, stem: str) -> Path:
    """The one file with that name and any ending."""
    parent, name = (folder / stem).parent, Path(stem).name
    found = sorted(file for file in os.listdir(parent) if os.path.splitext(file)[0] == name) if parent.is_dir() else []
    if len(found) != 1:
        what = f"the label {stem}.png has {'several images' if found else 'no image'}"
        raise (InputError if found else NotFound)(f"{what} in {parent}: {', '.join(found) or f'{name}.*'}")
    return parent / found[0]
