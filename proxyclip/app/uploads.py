"""Files from strangers: received within a number of bytes, and read only after their header has been checked."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np

from proxyclip.app.limits import Limits
from proxyclip.app.messages import without_folders
from proxyclip.errors import InputError
from proxyclip.images import read_image
from proxyclip.vocabulary import shortened

MOST_LETTERS = 60  # of a file name in messages


@asynccontextmanager
async def received(chunks: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[Path]:
    """A temporary file with the content of an upload, which is removed in the end; InputError if it is too large."""
    with temporary_file() as path:
        size = 0
        with open(path, "wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                check_bytes(size, limits)
                file.write(chunk)
        yield path


@contextmanager
def temporary_file() -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix="proxyclip-")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink()


def check_bytes(size: int, limits: Limits) -> None:
    if size > limits.upload_bytes:
        raise InputError(f"the file is larger than {limits.max_upload} MB, the most that is accepted")


def read_upload(path: Path, name: str, limits: Limits) -> np.ndarray:
    """The image (H, W, 3) uint8 in a received file; messages call the file by its own name. Raises InputError."""
    if path.stat().st_size == 0:
        raise InputError(f"{shown(name)} is an empty file")
    try:
        return read_image(path, limits.max_pixels)
    except InputError as error:
        raise InputError(without_folders(str(error).replace(f"image {path}", shown(name)))) from None


def shown(name: str) -> str:
    """The name of a file in quotes, for messages."""
    return shortened(Path(name.replace("\\", "/")).name or "the image", MOST_LETTERS)
