"""What all formats have in common."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import ClassVar

from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation
from proxyclip.vocabulary import split_names


@dataclass(frozen=True)
class BaseFormat(ABC):
    """An export format for results with these K classes (as given, in label order).

    FOLDER: folder of the files of single images, in the output folder; SUFFIX: their ending. GATHERED: whether they are
    only parts of a file for the whole job. PROBABILITIES: whether results need the probabilities of all classes.
    """

    classes: tuple[str, ...]

    FOLDER: ClassVar[str]
    SUFFIX: ClassVar[str]
    GATHERED: ClassVar[bool] = False
    PROBABILITIES: ClassVar[bool] = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """K different names: the first one of each class, "car" for "car; truck"."""
        return unique_names(self.classes)

    @abstractmethod
    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        """The content of the file of one image; called from several threads."""

    def gather(self, parts: Iterator[bytes]) -> dict[str, Iterator[bytes]]:
        """The files for the whole job, in chunks, by their names relative to the output folder.

        parts: what `encode` returned for each image, in order. They are read while the chunks are.
        """
        return {}


def unique_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The first name of each class; repeated ones are numbered: "bank", "bank 2"."""
    firsts = [split_names(text)[0] for text in classes]
    reserved, used, names = set(firsts), set(), []
    for name in firsts:
        if name in used:
            numbered = (f"{name} {number}" for number in count(2))
            name = next(candidate for candidate in numbered if candidate not in reserved | used)
        used.add(name)
        names.append(name)
    return tuple(names)


def json_bytes(value) -> bytes:
    """The value as one line of UTF-8. Half a character, as in file names that are not Unicode, becomes its escape."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace")
