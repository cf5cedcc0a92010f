"""What a benchmark is: where its images and labels lie, what its classes are called, what its label values mean."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxyclip.errors import InputError, NotFound, nearest

from .palettes import Colours, pascal

VOID = -1  # in every label that is read: pixels that are not scored, whatever value the dataset's own files use
ROOT_VARIABLE = "PROXYCLIP_DATA"
ROOT_HINT = f"The data root is set by --data-root DIR or the variable {ROOT_VARIABLE}"


@dataclass(frozen=True)
class Split:
    """The files of one part of a dataset, e.g. its validation images.

    images, labels: patterns below the dataset's folder; `{}` stands for the stem, which may hold folders
        ("frankfurt/frankfurt_000000_000294").
    listing: a text file below the folder with one stem a line; empty: every image and every label that fits.
    count: how many images there should be; several numbers where published copies differ.
    prepare: the converter that writes the labels (`python -m datasets.prepare NAME`); empty: the download has them.
    """

    images: str
    labels: str
    listing: str = ""
    count: tuple[int, ...] = ()
    prepare: str = ""

    def __post_init__(self):
        for pattern in (self.images, self.labels):
            if pattern.count("{}") != 1:
                raise InputError(f"the pattern {pattern!r} must hold {{}} once, where the stem belongs")


@dataclass(frozen=True)
class SegmentationData:
    """A segmentation dataset on disk.

    name: as it is printed in results. folder: below the data root.
    classes: names in label order. palette: their colours; the PASCAL colour map if not given.
    void: the stored value of pixels that are not scored, None if there is none.
    zero_is_void: the stored value 0 is not scored either, and the stored value k means class k - 1.
    unseen: names of classes that zero-shot training leaves out, by the name of the split.
    source: what to download, and where to unpack it.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    void: int | None = 255
    zero_is_void: bool = False
    palette: Colours = ()
    unseen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self):
        if not self.classes or len(set(self.classes)) < len(self.classes) or not all(map(str.strip, self.classes)):
            raise InputError(f"{self.name}: classes must be names, all different, at least one")
        if self.palette and len(self.palette) != len(self.classes):
            raise InputError(f"{self.name}: {len(self.palette)} colours for {len(self.classes)} classes")
        for split, names in self.unseen.items():
            if unknown := set(names) - set(self.classes):
                raise InputError(f"{self.name}: unseen classes of {split!r} that are no classes: {sorted(unknown)}")

    @property
    def colours(self) -> Colours:
        """(r, g, b) of each class, in label order. Black stays free for pixels that are not scored."""
        return self.palette or pascal(len(self.classes), first=1)

    @property
    def void_rule(self) -> str:
        """The stored values that are not scored, for the record of a run."""
        values = ["0"] * self.zero_is_void + [str(self.void)] * (self.void is not None)
        return " and ".join(values) or "none"

    def open(self, root: str | Path | None = None, split: str = "val", allow_missing: bool = False):
        """The images and labels of one split, as a `SegmentationFolder`.

        root: the data root; see `data_root`. allow_missing: files that are not there are an error only when read.
        Raises NotFound or InputError, with a sentence that says what was sought where and how to mend it.
        """
        from .folder import SegmentationFolder

        if split not in self.splits:
            raise InputError(f"{self.name} has no split {split!r}; {nearest(split, self.splits)}")
        return SegmentationFolder(self, self.locate(root, split), split, allow_missing)

    def locate(self, root: str | Path | None = None, split: str = "val") -> Path:
        """The dataset's folder below the data root; NotFound if it is not there."""
        root = data_root(root)
        if (path := root / self.folder).is_dir():
            return path
        above = next((parent for parent in root.parents if (parent / self.folder).is_dir()), None)
        raise NotFound(
            f"{self.name} was sought in {path}, which {'is no folder' if path.exists() else 'does not exist'}; "
            f"{f'did you mean --data-root {above}?' if above else self.mend(split) + '.'} {ROOT_HINT}"
        )

    def mend(self, split: str = "val") -> str:
        """What puts the files of a split in place: the download, and the command that converts it."""
        command = f"python -m datasets.prepare {name}" if (name := self.splits[split].prepare) else ""
        return "; then run ".join(step for step in (self.source, command) if step)


def data_root(flag: str | Path | None = None) -> Path:
    """The folder that holds all datasets: the flag, else the variable PROXYCLIP_DATA, else `data`; absolute."""
    return Path(flag or os.environ.get(ROOT_VARIABLE) or "data").expanduser().absolute()
