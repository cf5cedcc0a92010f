"""The inputs of a job as a sequence: paths are held, everything else about an input is made when its turn comes."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, overload

from proxyclip.folder.naming import alike, renamed, short_name
from proxyclip.folder.storage import is_address

IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ts", ".mts"}
VIDEO_ENDINGS = tuple(VIDEOS)


class Item(NamedTuple):
    """One image or video. path: a file or an address. file_name: the path below the root of all inputs, with "/". name:
    that of its outputs, "a/b", without an ending and unique."""

    path: str
    file_name: str
    name: str

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


@dataclass(frozen=True, eq=False)
class Items(Sequence[Item]):
    """Images and videos by their paths; slices hold only what they need, and can be pickled.

    root: the folder that file names are relative to, absolute, or an address; "" if there is none. current: the folder
    that relative paths belong to. names: path -> name of those whose name depends on others, see `renamed`.
    """

    paths: list[str]
    root: str
    current: str
    names: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "Items": ...
    def __getitem__(self, place):
        return self.of(self.paths[place]) if isinstance(place, slice) else self.item(self.paths[place])

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, self.paths)

    def at(self, places: Iterable[int]) -> "Items":
        return self.of([self.paths[place] for place in places])

    def of(self, paths: list[str]) -> "Items":
        """Some of the inputs."""
        names = {path: self.names[path] for path in paths if path in self.names} if self.names else {}
        return Items(paths, self.root, self.current, names)

    def item(self, path: str) -> Item:
        return Item(path, "".join(self.below_root(path)), self.name(path))

    def name(self, path: str) -> str:
        """That of the outputs."""
        return self.names.get(path) or short_name(*self.below_root(path))

    def below_root(self, path: str) -> tuple[str, str]:
        """The folder relative to the root, "a/", and the name in it; the whole folder if it is outside."""
        folder, slash, name = path.replace(os.sep, "/").rpartition("/")
        if name in ("", ".", ".."):
            folder, slash, name = os.path.abspath(os.path.join(self.current, path)).replace(os.sep, "/").rpartition("/")
        return below(folder + slash, self.root, self.current), name

    @cached_property
    def videos(self) -> list[int]:
        """The places of the videos."""
        return [place for place, path in enumerate(self.paths) if is_video(path)]


def items_of(paths: list[str], root: str) -> Items:
    """The paths as items with names that differ, each file once."""
    items = Items(paths, root, os.getcwd())
    suspects = alike(paths, items.below_root)
    if not len(suspects):  # as almost always, and then no path occurs twice
        return items
    first: dict[str, int] = {}
    for place in suspects:
        first.setdefault(paths[place] if is_address(paths[place]) else os.path.abspath(paths[place]), place)
    again = {*suspects} - {*first.values()}
    unique = [path for place, path in enumerate(paths) if place not in again]
    return replace(items, paths=unique, names=renamed(unique, items.below_root))


@lru_cache(10_000)
def below(folder: str, root: str, current: str) -> str:
    """A folder relative to the root, with "/" at its end unless it is the root. Millions of files share a few."""
    whole = folder if is_address(folder) else os.path.abspath(os.path.join(current, folder)).replace(os.sep, "/")
    whole, start = whole.rstrip("/") + "/", root.replace(os.sep, "/").rstrip("/") + "/"
    shorter = whole[len(start) :] if root and whole.startswith(start) else whole
    return shorter.replace("://", "/").lstrip("/")


def is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_ENDINGS) and ending(path) in VIDEOS


def ending(path: str) -> str:
    return posixpath.splitext(path)[1].lower()
