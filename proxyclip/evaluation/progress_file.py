"""The progress of one process on disk: a matrix that is replaced, and names that are appended.

    0003-0001.npz      the matrix (K, K), the seconds, and how many bytes of the names belong to it, with their checksum
    0003-0001.names    one line of JSON for each image: [stem, aAcc, mIoU], or [stem, why] for one that was skipped

A save appends the new names, then replaces the .npz atomically. Whatever happens between the two (kill -9, a full disk)
leaves the earlier matrix with the earlier number of bytes: what follows them is ignored by readers, and overwritten by
the next save. A save therefore takes time proportional to the matrix and the new names, however many there are already.
"""

import json
import os
import zipfile
import zlib
from itertools import islice
from pathlib import Path

import numpy as np

from proxyclip.files import write_whole

Images = dict[str, tuple[float, float]]  # stem -> aAcc, mIoU
Skipped = dict[str, str]  # stem -> why


class ProgressFile:
    """Writes the progress of one process; `path` is that of the .npz."""

    def __init__(self, path: Path):
        self.path, self.names = path, names_of(path)
        self.bytes = self.checksum = 0  # of the names that belong to the matrix on disk
        self.images = self.skipped = 0  # how many of each are among them

    def save(self, matrix: np.ndarray, images: Images, skipped: Skipped, seconds: float) -> None:
        """Saves all of it. Since the last save, the dictionaries may only have grown.

        Raises OSError, and leaves what was saved before.
        """
        new = [[stem, *own] for stem, own in newest(images, self.images)]
        new += newest(skipped, self.skipped)
        lines = "".join(json.dumps(line) + "\n" for line in new).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.names, "r+b" if self.bytes else "wb") as file:
            file.seek(self.bytes)
            file.write(lines)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())  # after a power failure, the matrix must not be there without them
        size, checksum = self.bytes + len(lines), zlib.crc32(lines, self.checksum)
        facts = np.array(json.dumps({"seconds": seconds, "bytes": size, "checksum": checksum}))
        write_whole(self.path, lambda file: np.savez(file, matrix=matrix, facts=facts))
        self.bytes, self.checksum, self.images, self.skipped = size, checksum, len(images), len(skipped)


def read_progress(path: Path, classes: int) -> tuple[np.ndarray, Images, Skipped, float]:
    """Matrix, images, skipped images and seconds of one process.

    Raises ValueError for a file that is damaged, not for K classes, or of an earlier version.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            matrix, facts = stored["matrix"], json.loads(str(stored["facts"]))
        if matrix.shape != (classes, classes) or matrix.dtype != np.int64:
            raise ValueError(f"its matrix is {matrix.shape} {matrix.dtype}")
        if "bytes" in facts:
            lines = read_names(names_of(path), facts["bytes"], facts["checksum"])
            images = {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}
            return matrix, images, dict(line for line in lines if len(line) == 2), facts["seconds"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"is damaged ({error})") from None
    raise ValueError("was written by an earlier version")


def read_names(path: Path, size: int, checksum: int) -> list[list]:
    """The lines in the first `size` bytes; ValueError if these are others than those that were written."""
    with open(path, "rb") as file:
        text = file.read(size)
    if zlib.crc32(text) != checksum:
        raise ValueError(f"{path.name} does not hold the names of its images")
    return json.loads(b"[" + text.rstrip().replace(b"\n", b",") + b"]")


def names_of(path: Path) -> Path:
    return path.with_suffix(".names")


def newest(entries: dict, known: int) -> list[tuple]:
    """All entries but the `known` oldest ones, in time proportional to their number."""
    return [*islice(reversed(entries.items()), len(entries) - known)][::-1]
