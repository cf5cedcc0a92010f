"""Writing files: a reader never meets half of one."""

import os
from pathlib import Path

from proxyclip.errors import InputError


def writable_folder(path: str | os.PathLike) -> Path:
    """The folder, made if need be; InputError if files cannot be written to it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"output folder {path} cannot be made: a file of that name is in its place") from None
    except OSError as error:
        raise InputError(f"output folder {path} cannot be written to: {error.strerror}") from None
    return path


def write_whole(path: Path, write) -> Path:
    """Calls `write` with a binary file of another name, then renames it to `path`: all of it is there, or nothing."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            write(file)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_image(path: str | os.PathLike, image) -> Path:
    """Writes a PIL image as a whole, in the format of the path's ending; InputError if that cannot be done."""
    path = Path(path)
    try:
        return write_whole(path, lambda file: image.save(file, image_format(path)))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the image {path}: {getattr(error, 'strerror', None) or error}") from None


def image_format(path: Path) -> str:
    """Pillow's name of the format that an ending stands for; ValueError for an unknown one."""
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise ValueError(f"no image format is written as {path.suffix or 'a file without an ending'}; try .png or .jpg")
    return known[path.suffix.lower()]
