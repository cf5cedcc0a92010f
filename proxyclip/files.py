"""Writing files atomically: a file is complete or does not exist."""

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from proxyclip.errors import InputError


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
