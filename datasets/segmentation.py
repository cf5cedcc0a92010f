"""Datasets: where images and label maps are, the class names, and the meaning of stored values."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.downloads import how_to_unpack
from datasets.folder import SegmentationFolder, Split, check_plain_name, checked_names, is_whole
from datasets.label_map import Colours, LabelValues, pascal
from proxyclip.errors import InputError, NotFound, nearest

ROOT_VARIABLE = "PROXYCLIP_DATA"
ROOT_HINT = f"The data root is set by --data-root DIR or the variable {ROOT_VARIABLE}"


@dataclass(frozen=True)
class SegmentationData:
    """A segmentation dataset on disk.

    name: as it is printed in results. folder: below the data root.
    classes: names in label order. palette: their colours; the PASCAL colour map if not given.
    void: the stored value of pixels that are not scored, None if there is none.
    zero_is_void: the stored value 0 is not scored either, and the stored value k means class k - 1.
    unseen: names of classes that zero-shot training leaves out, by the name of the split.
    source: how to get the files, for a dataset that `datasets/downloads.json` does not hold.

    Raises InputError for a field of the wrong type, or fields that contradict each other.
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
        check_plain_name(self.name, "name")
        for field_name in ("folder", "source"):
            if not isinstance(value := getattr(self, field_name), str):
                raise InputError(f"{self.name}: {field_name} must be a string, not {value!r}")
        object.__setattr__(self, "classes", checked_names(self.classes, f"{self.name}: classes"))
        if not self.classes:
            raise InputError(f"{self.name}: classes must contain at least one name")
        if not isinstance(self.splits, Mapping) or not all(isinstance(s, Split) for s in self.splits.values()):
            raise InputError(f"{self.name}: splits must be a dict such as {{'val': Split(...)}}, not {self.splits!r}")
        if not (self.void is None or is_whole(self.void, 0)):
            raise InputError(f"{self.name}: void must be a stored value such as 255, or None, not {self.void!r}")
        if not isinstance(self.zero_is_void, bool):
            raise InputError(f"{self.name}: zero_is_void must be True or False, not {self.zero_is_void!r}")
        self._check_palette()
        self._check_unseen()

    def _check_palette(self):
        if not isinstance(self.palette, (tuple, list)) or not all(map(is_colour, self.palette)):
            raise InputError(f"{self.name}: palette must be a tuple of (r, g, b), each from 0 to 255")
        if self.palette and len(self.palette) != len(self.classes):
            raise InputError(f"{self.name}: {len(self.palette)} colours for {len(self.classes)} classes")

    def _check_unseen(self):
        if not isinstance(self.unseen, Mapping):
            raise InputError(f"{self.name}: unseen must be a dict from the name of a split to names of classes")
        for split, names in self.unseen.items():
            if unknown := set(checked_names(names, f"{self.name}: unseen[{split!r}]")) - set(self.classes):
                raise InputError(f"{self.name}: unseen[{split!r}] names {sorted(unknown)}, which are not classes")

    @property
    def colours(self) -> Colours:
        """(r, g, b) of each class in label order. Black is reserved for pixels that are not scored."""
        return self.palette or pascal(len(self.classes), first=1)

    @property
    def void_rule(self) -> str:
        """The stored values that are not scored, for records."""
        values = ["0"] * self.zero_is_void + [str(self.void)] * (self.void is not None)
        return " and ".join(values) or "none"

    def open(
        self, root: str | Path | None = None, split: str = "val", allow_missing: bool = False
    ) -> SegmentationFolder:
        """The images and label maps of one split.

        root: the data root; see `data_root`. allow_missing: missing files are an error only when they are read. Raises
        NotFound or InputError with what was looked for, where, and how to get it.
        """
        files = self.split(split)
        values = LabelValues(self.name, len(self.classes), self.void, self.zero_is_void)
        return SegmentationFolder(self.locate(root, split), files, values, self.how_to_get(split), allow_missing)

    def split(self, name: str) -> Split:
        """One of `splits`; InputError that names the nearest if there is none of that name."""
        if name not in self.splits:
            raise InputError(f"{self.name} has no split {name!r}; {nearest(name, self.splits)}")
        return self.splits[name]

    def locate(self, root: str | Path | None = None, split: str = "val") -> Path:
        """The dataset's folder below the data root; NotFound if it is not there."""
        root = data_root(root)
        if (path := root / self.folder).is_dir():
            return path
        above = next((parent for parent in root.parents if (parent / self.folder).is_dir()), None)
        raise NotFound(
            f"{self.name} was looked for in {path}, which {'is not a folder' if path.exists() else 'does not exist'}; "
            f"{f'did you mean --data-root {above}?' if above else self.how_to_get(split) + '.'} {ROOT_HINT}"
        )

    def how_to_get(self, split: str = "val") -> str:
        """How to get the files of a split: what to unpack where, and the commands that convert it."""
        commands = [f"run python -m datasets.prepare {name}" for name in self.split(split).prepare]
        steps = [self.source or how_to_unpack(self.name, split), *commands]
        return ", then ".join(filter(None, steps)) or f"put the files of {self.name} there"


def is_colour(value) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 3 and all(is_whole(part, 0, 255) for part in value)


def data_root(flag: str | Path | None = None) -> Path:
    """The folder that holds all datasets: the flag, else the variable PROXYCLIP_DATA, else `data`; absolute."""
    return Path(flag or os.environ.get(ROOT_VARIABLE) or "data").expanduser().absolute()
