"""The images and videos that the inputs of a command line name.

An input is an image, a video, a folder, a pattern ("photos/**/*.jpg"), a text file with one path per line, or the
address of any of these in an object store ("s3://bucket/photos").
"""

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxyclip.errors import InputError, NotFound
from proxyclip.files import usable
from proxyclip.folder.items import IMAGES, VIDEOS, Items, ending, items_of
from proxyclip.folder.storage import is_address, list_addresses

WANTED = IMAGES | VIDEOS
LISTING = ".txt"


def find_items(inputs: Iterable[str], without: str | None = None) -> Items:
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
    return items_of(found, common_root(tops))


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
