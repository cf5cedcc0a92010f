"""Writing files atomically: a file is complete or does not exist."""

import hashlib
import os
import re
import stat
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from proxyclip.errors import InputError
from proxyclip.vocabulary import split_names


def writable_folder(path: str | os.PathLike) -> Path:
    """The folder, created if necessary; InputError if files cannot be written to it."""
    path = usable(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(path / "probe")
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"cannot create the output folder {path}: a file of that name exists") from None
    except OSError as error:
        raise InputError(f"cannot write to the output folder {path}: {error.strerror or error}") from None
    return path


def writable_file(path: str | os.PathLike) -> Path:
    """The path of a file that can be written, its folder made if need be; InputError if it cannot."""
    path = replaceable(path)
    writable_folder(path.parent)
    return path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path`, which the block writes to and which is then renamed to `path`.

    After an error there is no temporary file and `path` is unchanged. Raises InputError for an invalid path and OSError
    where the system refuses.
    """
    path = replaceable(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> Path:
    """Calls `write` with a binary file that becomes `path` when it is complete; errors as in `replacing`."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        write(file)
    return Path(path)


def write_image(path: str | os.PathLike, image) -> Path:
    """Writes a PIL image as a whole, in the format of the path's ending; InputError if that cannot be done."""
    path = Path(path)
    try:
        return write_whole(path, lambda file: image.save(file, image_format(path)))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the image {path}: {getattr(error, 'strerror', None) or error}") from None


def image_format(path: Path) -> str:
    """Pillow's name of the format that an ending stands for; ValueError for an unknown one."""
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise ValueError(f"no image format is written as {path.suffix or 'a file without an ending'}; try .png or .jpg")
    return known[path.suffix.lower()]


def temporary_name(path: Path) -> Path:
    """A hidden name in the same folder that no other call gets, in any thread, process or machine."""
    return path.with_name(f".{uuid.uuid4().hex}.tmp")  # without the path's own name, which may be of the longest


def usable(path: str | os.PathLike) -> Path:
    """The path; InputError if it is none, or holds a character that no path of this system can hold."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"a path must be text, not {path!r}")
    try:
        if b"\0" not in os.fsencode(path):
            return Path(path)
    except UnicodeEncodeError:  # a lone surrogate, or a system whose file names are ASCII
        pass
    raise InputError(f"invalid file name {os.fspath(path)!r}: it contains a character that is not allowed")


def replaceable(path: str | os.PathLike) -> Path:
    """The path; InputError if a folder, a device or the like is there: renaming would fail, or take its place.

    OSError for a name that is too long.
    """
    path = usable(path)
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return path
    if not regular:
        raise InputError(f"cannot write {path}: it is not a regular file but a folder, device or the like")
    return path


def write_json(path: str | os.PathLike, value) -> Path:
    """Writes a value as JSON, as a whole."""
    import json

    return write_whole(Path(path), lambda file: file.write(json.dumps(value).encode()))


MOST_BYTES = 220  # of a file name; file systems take 255, but programs that write files add to their names
CLASS_BYTES = 60  # of a class's part of it
LONGEST_NAME = 255  # bytes that file systems accept
UNSAFE = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|\ud800-\udfff]')  # in a file's name on one system or another


def output_names(stem: str, heatmaps=()) -> dict[str, str]:
    """Key -> file name of everything that `Segmentation.save` writes; heatmaps: the classes that have one.

    Raises InputError where `stem` cannot begin those names: one with a folder in it, or one that is too long.
    """
    if not is_file_name(stem):
        raise InputError(f"stem {stem!r} cannot start a file name: choose one without a folder, such as 'street'")
    names = {"overlay": f"{stem}_overlay.png", "labels": f"{stem}_labels.png", "json": f"{stem}.json"}
    for name, part in zip(heatmaps, class_parts(heatmaps), strict=True):
        names[f"heatmap {name}"] = f"{stem}_heatmap_{part}.png"
        names[f"probability {name}"] = f"{stem}_probability_{part}.png"
    try:
        longest = max(len(os.fsencode(name)) for name in names.values())
    except UnicodeEncodeError:
        raise InputError(f"stem {stem!r} cannot start a file name: it contains half a character") from None
    if longest > MOST_BYTES:
        most = len(os.fsencode(stem)) - (longest - MOST_BYTES)
        raise InputError(f"stem {stem!r} is too long for file names: choose one of at most {most} bytes")
    return names


def is_file_name(stem) -> bool:
    """Whether it is text that stays in its folder, on any system."""
    if not isinstance(stem, str) or stem.strip() in ("", ".", ".."):
        return False
    return not re.search(r"[/\\\0]", stem) and Path(stem).name == stem


def class_parts(names) -> list[str]:
    """A distinct part of a file name for each class: letters and digits of its first name."""
    parts, used = [], Counter()
    for name in names:
        plain = re.sub(r"\W+", "_", unicodedata.normalize("NFC", split_names(name)[0])).strip("_")
        part = plain.encode()[:CLASS_BYTES].decode(errors="ignore") or "class"
        used[part.casefold()] += 1  # some file systems take "Car" and "car" for one name
        count = used[part.casefold()]
        parts.append(f"{part}-{count}" if count > 1 else part)
    return parts


def file_name(part: str, longest: int = LONGEST_NAME - len(".png")) -> str:
    """The part of a path, if it is a valid file name on any system and has at most `longest` bytes.

    Others ("..", too long, or with characters that a system rejects) are replaced and get a hash, so that different
    parts stay different.
    """
    if part.strip(" .") and not UNSAFE.search(part) and len(part.encode()) <= longest:
        return part
    digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    start = UNSAFE.sub("_", part).lstrip(". ").encode()[: longest - 13].decode("utf-8", "ignore")
    return f"{start}~{digest}"
