"""The images and videos that the inputs of a command line name.

An input is an image, a video, a folder, a pattern ("photos/**/*.jpg"), a text file with one path per line, or the
address of any of these in an object store ("s3://bucket/photos").
"""

import glob
import hashlib
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from proxyclip.errors import InputError, NotFound
from proxyclip.files import file_name, usable
from proxyclip.folder.storage import is_address, list_addresses

LISTING = ".txt"
IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ts", ".mts"}
VIDEO_ENDINGS = tuple(VIDEOS)
WANTED = IMAGES | VIDEOS
LONGEST = 200  # bytes of a part, which leaves room for endings and the names of heat maps


class Input(NamedTuple):
    """One image or video. path: a file or an address. file_name: the path below the root of all inputs, with "/". name:
    that of its outputs, "a/b", without an ending and unique."""

    path: str
    file_name: str
    name: str

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


@dataclass(frozen=True, eq=False)
class Inputs(Sequence[Input]):
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
    def __getitem__(self, place: int) -> Input: ...
    @overload
    def __getitem__(self, place: slice) -> "Inputs": ...
    def __getitem__(self, place):
        return self.of(self.paths[place]) if isinstance(place, slice) else self.item(self.paths[place])

    def __iter__(self) -> Iterator[Input]:
        return map(self.item, self.paths)

    def at(self, places: Iterable[int]) -> "Inputs":
        return self.of([self.paths[place] for place in places])

    def of(self, paths: list[str]) -> "Inputs":
        """Some of the inputs."""
        names = {path: self.names[path] for path in paths if path in self.names} if self.names else {}
        return Inputs(paths, self.root, self.current, names)

    def item(self, path: str) -> Input:
        return Input(path, "".join(self.below_root(path)), self.name(path))

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


def find_inputs(inputs: Iterable[str], without: str | None = None) -> Inputs:
    """All images and videos of the inputs, each once, in their order; those of a folder are sorted.

    Outputs are named by the path below the deepest folder that contains all inputs. without: a folder to leave out, the
    one for the outputs. Raises NotFound or InputError for an input that does not exist or contains nothing.
    """
    found = []  # paths, in order
    tops = []  # the folders that names must show
    for given in inputs:
        paths, folders = expand(given, without)
        if not paths:
            raise InputError(f"no image or video found in {given}")
        found += paths
        tops += folders
    return inputs_of(found, common_root(tops))


def expand(given: str, without: str | None) -> tuple[list[str], list[str]]:
    """The paths that one input names, and the folders whose common one is the root."""
    if is_address(given):
        return in_store(given)
    path = usable(given)
    if os.path.isdir(path):
        return list(walk(str(path), without)), [str(path)]
    if os.path.isfile(path):
        if ending(given) == LISTING:
            paths = lines_of(path)
            starts = {path[: path.replace(os.sep, "/").rfind("/") + 1] for path in paths}
            return paths, [posixpath.dirname(start.replace(os.sep, "/")) for start in starts]
        return [given], [os.path.dirname(given)]
    if glob.has_magic(given):
        paths = sorted(entry for entry in glob.iglob(given, recursive=True) if is_wanted(entry))
        fixed = given[: next(place for place, letter in enumerate(given) if letter in "*?[")]
        return paths, [os.path.dirname(fixed)]
    if os.path.lexists(path):
        raise InputError(f"{given} is not a regular file but a broken link, pipe, device or socket")
    raise NotFound(f"input {given} does not exist")


def in_store(given: str) -> tuple[list[str], list[str]]:
    """The same for an address."""
    if ending(given) in WANTED and not glob.has_magic(given):
        return [given], [posixpath.dirname(given)]
    fixed = given.split("*")[0].split("?")[0].split("[")[0] if glob.has_magic(given) else given + "/"
    return sorted(filter(is_named_as_wanted, list_addresses(given))), [posixpath.dirname(fixed)]


def walk(folder: str, without: str | None) -> Iterator[str]:
    """All images and videos below a folder, sorted, but those of hidden folders; links to folders are followed."""
    without = without and os.path.realpath(without)
    seen = set()  # folders by device and number: links may form a circle
    for place, folders, files in os.walk(folder, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen or os.path.realpath(place) == without:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = os.path.join(place, "")
        yield from (start + name for name in sorted(files) if is_named_as_wanted(name))


def lines_of(listing: Path) -> list[str]:
    """The paths of a text file, one per line, relative to the current folder; they need not exist."""
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"listing {listing} is not UTF-8 text: write one path per line") from None
    except OSError as error:
        raise InputError(f"cannot read listing {listing}: {error.strerror or error}") from None
    paths = [path for line in text.splitlines() if (path := line.strip())]
    if "\0" in text:
        bad = next(path for path in paths if "\0" in path)
        raise InputError(f"listing {listing} is not a list of paths: it contains {bad[:40]!r}")
    return paths


def is_wanted(path: str) -> bool:
    return is_named_as_wanted(path) and os.path.isfile(path)


def is_named_as_wanted(path: str) -> bool:
    return ending(path) in WANTED and not posixpath.basename(path).startswith(".")


def common_root(folders: list[str]) -> str:
    """The deepest folder that contains all of these; "" if none does."""
    absolute = {folder if is_address(folder) else os.path.abspath(folder) for folder in folders}
    if len(absolute) == 1:
        return absolute.pop()
    if any(map(is_address, absolute)):
        parts = [folder.split("/") for folder in absolute]
        shared = os.path.commonprefix(parts)
        return "/".join(shared)
    try:
        return os.path.commonpath(absolute)
    except ValueError:  # two drives of Windows
        return ""


def inputs_of(paths: list[str], root: str) -> Inputs:
    """The paths as items with names that differ, each file once."""
    items = Inputs(paths, root, os.getcwd())
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


def short_name(folder: str, name: str) -> str:
    """The name "a/b" of the outputs of "b.jpg" in the folder "a/"; parts that some system rejects are replaced, see
    `file_name`."""
    return folder_name(folder) + file_name(name.rpartition(".")[0] or name, LONGEST)


def long_name(folder: str, name: str) -> str:
    """The same with the ending: "a/b_jpg"."""
    return folder_name(folder) + file_name(name.replace(".", "_"), LONGEST)


def renamed(inputs: Sequence[str], parts: Callable[[str], tuple[str, str]]) -> dict[str, str]:
    """Input -> name, for the inputs whose name is not their `short_name`: that of "a/b.jpg" is "a/b_jpg" where there is
    an "a/b.png".

    parts: the folder and the name in it of one of the different inputs; called several times, so that they need not be
    held. A name depends on its path and on the paths that would have the same name, not on the order.
    """
    suspects = [inputs[place] for place in alike(inputs, parts)]
    taken = Counter(reading(short_name(*parts(one))) for one in suspects)  # hashes may be equal by chance
    found = {one: long_name(*parts(one)) for one in suspects if taken[reading(short_name(*parts(one)))] > 1}
    taken = Counter(map(reading, found.values()))
    for one in inputs:  # those that have such a name already
        if one not in found and reading(name := short_name(*parts(one))) in taken:
            found[one] = name
            taken[reading(name)] += 1
    return {one: name if taken[reading(name)] == 1 else f"{name}~{digest(*parts(one))}" for one, name in found.items()}


def alike(inputs: Sequence[str], parts: Callable[[str], tuple[str, str]]) -> np.ndarray:
    """The places of the inputs whose short names may be read as that of another: 8 bytes are held for each."""
    hashes = np.fromiter((hash(reading(short_name(*parts(one)))) for one in inputs), np.int64, len(inputs))
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(hashes, again)) if len(again) else again


def digest(folder: str, name: str) -> str:
    return hashlib.sha256((folder + name).encode("utf-8", "surrogatepass")).hexdigest()[:12]


@lru_cache(10_000)
def folder_name(folder: str) -> str:
    """With "/" at the end, unless it is empty. Millions of files share a few folders."""
    return "".join(file_name(part, LONGEST) + "/" for part in filter(None, folder.split("/")))


def reading(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
