"""What an evaluation has counted so far, on disk: it can be killed at any moment, and any number of ranks resumes it.

Every process appends to a file of its own, one line of JSON for each image: the entries of its confusion matrix that
are not zero. A torn line is ignored, so an image is counted as a whole or not at all. The result is the sum of all
lines of all files, whoever wrote them.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import scores


class ImageCounts(NamedTuple):
    """The counts of one image, as they are written.

    accuracy, miou: of that image alone, in percent, nan if nothing is labelled. cells, pixels: indices into its
    flattened confusion matrix, and what stands there. seconds: spent on it. problem: why it was skipped.
    """

    stem: str
    seconds: float
    problem: str = ""
    accuracy: float = float("nan")
    miou: float = float("nan")
    cells: Sequence[int] = ()
    pixels: Sequence[int] = ()

    @classmethod
    def of(cls, stem: str, seconds: float, matrix: np.ndarray | None, problem: str = "") -> "ImageCounts":
        """From the confusion matrix (K, K) of the image; None for one that is skipped."""
        if matrix is None:
            return cls(stem, seconds, problem)
        of_image, cells = scores(matrix), np.flatnonzero(matrix)
        pixels = matrix.ravel()[cells].tolist()
        return cls(stem, seconds, "", of_image["aAcc"], of_image["mIoU_present"], cells.tolist(), pixels)


@dataclass
class Counts:
    """Counts over some images.

    matrix: (K, K) int64. images: stem -> percent (aAcc, mIoU) of that image alone, nan if nothing is labelled. skipped:
    stem -> why an image could not be used. seconds: that a rank spent on them, on average.
    """

    matrix: np.ndarray
    images: dict[str, tuple[float, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def empty(cls, classes: int) -> "Counts":
        return cls(np.zeros((classes, classes), np.int64))

    def add(self, image: ImageCounts) -> None:
        """Counts one image, once, whatever two runs at the same time have written about it."""
        if image.problem:
            self.skipped |= {} if image.stem in self.images else {image.stem: image.problem}
        elif image.stem not in self.images:
            self.matrix.reshape(-1)[np.array(image.cells, np.int64)] += np.array(image.pixels, np.int64)
            self.images[image.stem] = image.accuracy, image.miou
            self.skipped.pop(image.stem, None)
        self.seconds += image.seconds

    def __iadd__(self, other: "Counts") -> "Counts":
        """Adds the counts of other images."""
        self.matrix += other.matrix
        self.images |= other.images
        self.skipped |= other.skipped
        self.seconds += other.seconds
        return self

    @property
    def done(self) -> set[str]:
        """The images that need not be evaluated again."""
        return self.images.keys() | self.skipped.keys()


class Progress:
    """The files of one run: WORKDIR/progress/KEY/SESSION-RANK.jsonl, where KEY stands for the whole protocol.

    Rank 0's protocol decides: `evaluate` gives its folder to all ranks.
    """

    def __init__(self, workdir: Path, protocol: dict):
        text = json.dumps(protocol, sort_keys=True)
        self.folder = Path(workdir) / "progress" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.session = time.time_ns()

    def locked(self):
        """A context that only one process can hold; Busy, an InputError, if another one holds it."""
        return hold_lock(self.folder.with_suffix(".lock"))

    def read(self, classes: int) -> Counts:
        """The sum of all that was counted before; a damaged line is left out with a note, a torn last one without."""
        total = Counts.empty(classes)
        for path in sorted(self.folder.glob("*.jsonl")):
            *lines, _ = path.read_bytes().split(b"\n")
            for number, line in enumerate(lines, start=1):
                try:
                    total.add(ImageCounts(*json.loads(line)))
                except (ValueError, TypeError, IndexError):
                    where = f"line {number} of progress file {path}"
                    print(f"note: {where} is damaged; its image is evaluated again", file=sys.stderr)
        return total

    def append(self, image: ImageCounts, rank: int) -> None:
        """Writes the counts of an image; InputError where that fails, and what was written before is intact."""
        path = self.folder / f"{self.session}-{rank:04d}.jsonl"
        line = json.dumps(image).encode() + b"\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "ab", buffering=0) as file:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise InputError(
                f"cannot write progress to {path} ({error.strerror or error}); earlier progress is intact: fix this, "
                "then rerun with --resume"
            ) from None

    def forget(self) -> None:
        """Removes the files, for a run that starts anew; call it within `locked()`."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Removes the files when the result is written."""
        with contextlib.suppress(Busy), self.locked():  # a run that began meanwhile owns them
            self.forget()


class Busy(InputError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold_lock(path: Path, work: str = "the same evaluation", workdir: Path | None = None) -> Iterator[None]:
    """Holds the lock file while the block runs, then removes it. The system releases it when the process is killed.

    work, workdir: what the other process does, and where, for the error message. Raises Busy if another process holds
    the lock, and InputError where there can be none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        where = workdir or path.parents[1]
        raise Busy(
            f"another process is running {work} in {where}: wait for it, stop it, or choose another --workdir"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise InputError(f"cannot lock {path} ({getattr(error, 'strerror', None) or error})") from None
    with lock:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove a file that is open
                path.unlink()
