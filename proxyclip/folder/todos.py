"""What is left to do, as a sequence: paths and a number for each are held, a `Todo` is made when its turn comes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

from proxyclip.folder.inputs import Item, Items


class Todo(NamedTuple):
    """An item that is not finished. missing: the formats that it still needs. video: whether an overlay video is."""

    item: Item
    missing: tuple[str, ...]
    video: bool = False


@dataclass(frozen=True, eq=False)
class Todos(Sequence[Todo]):
    """Items that are not finished; slices hold only what they need, and can be pickled.

    formats: of images; frame_formats: of the frames of videos. missing: (N) uint32, the bit k is set if the k-th format
    is missing; the bit after the last of `frame_formats` if an overlay video is.
    """

    items: Items
    formats: tuple[str, ...]
    frame_formats: tuple[str, ...]
    missing: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, place: int) -> Todo: ...
    @overload
    def __getitem__(self, place: slice) -> "Todos": ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return Todos(self.items[place], self.formats, self.frame_formats, self.missing[place].copy())
        return self.todo(self.items[place], int(self.missing[place]))

    def __iter__(self) -> Iterator[Todo]:
        return map(self.todo, self.items, map(int, self.missing))

    def at(self, places: np.ndarray) -> "Todos":
        return Todos(self.items.at(places), self.formats, self.frame_formats, self.missing[places])

    def todo(self, item: Item, missing: int) -> Todo:
        formats = self.frame_formats if item.is_video else self.formats
        kinds = tuple(kind for bit, kind in enumerate(formats) if missing >> bit & 1)
        return Todo(item, kinds, item.is_video and bool(missing >> len(formats)))

    def parted(self) -> tuple["Todos", "Todos"]:
        """The images and the videos."""
        videos = np.zeros(len(self), bool)
        videos[self.items.videos] = True
        if not videos.any():
            return self, self[:0]
        return self.at(np.flatnonzero(~videos)), self.at(np.flatnonzero(videos))

    def kinds(self) -> set[str]:
        """The formats that some of them need."""
        found = set()
        for part, formats in zip(self.parted(), (self.formats, self.frame_formats), strict=True):
            bits = int(np.bitwise_or.reduce(part.missing))
            found |= {kind for bit, kind in enumerate(formats) if bits >> bit & 1}
        return found
