"""The counts of an unfinished evaluation, saved so that it can be interrupted at any moment and resumed exactly.

Every process writes its matrix and the names of the images counted in it to its own files, see `progress_file`; the
names always say exactly which images the matrix contains. A resumed run never changes the files of earlier sessions; it
skips their images and writes the files of a new session. All files of a run therefore hold disjoint images, and their
sum is the result, whatever the number of processes in each session.
"""

import contextlib
import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from proxyclip.errors import InputError
from proxyclip.evaluation.progress_file import ProgressFile, read_progress
from proxyclip.evaluation.run_lock import Busy, run_lock


@dataclass
class Counts:
    """Counts over some images.

    matrix: (K, K) int64. images: stem -> percent (aAcc, mIoU) of that image alone, nan if nothing is labelled. skipped:
    stem -> why an image could not be used. seconds: time that rank 0 spent on them.
    """

    matrix: np.ndarray
    images: dict[str, tuple[float, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def empty(cls, classes: int) -> "Counts":
        return cls(np.zeros((classes, classes), np.int64))

    def __iadd__(self, other: "Counts") -> "Counts":
        """Adds the images of another, which must be different ones; an image that one of them skipped may be in the
        other. Takes time proportional to the other, so that many can be added up.

        Raises ValueError for an image that is in both, and adds nothing.
        """
        if twice := self.images.keys() & other.images.keys():
            raise ValueError(f"image {min(twice)} is counted twice")
        self.matrix = self.matrix + other.matrix
        self.images.update(other.images)
        for stem in self.skipped.keys() & other.images.keys():
            del self.skipped[stem]
        self.skipped.update((stem, why) for stem, why in other.skipped.items() if stem not in self.images)
        self.seconds += other.seconds
        return self

    def __add__(self, other: "Counts") -> "Counts":
        """The sum as a new value."""
        total = Counts(self.matrix, dict(self.images), dict(self.skipped), self.seconds)
        total += other
        return total

    @property
    def done(self) -> set[str]:
        """The images that need not be evaluated again."""
        return self.images.keys() | self.skipped.keys()


class Progress:
    """The files of one run: WORKDIR/progress/KEY/SESSION-RANK.*, where KEY stands for the whole protocol.

    Rank 0's protocol decides: `evaluate` gives its folder to all ranks.
    """

    def __init__(self, workdir: Path, protocol: dict):
        text = json.dumps(protocol, sort_keys=True)
        self.folder = Path(workdir) / "progress" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.session = 0
        self._files: dict[Path, ProgressFile] = {}  # that are being written

    def locked(self):
        """A context that only one process can hold; Busy, an InputError, if another one holds it."""
        return run_lock(self.folder.with_suffix(".lock"))

    def parts(self) -> list[Path]:
        """The matrices written so far, one for each session and process."""
        return sorted(path for path in self.folder.glob("*.npz") if re.fullmatch(r"\d+-\d+", path.stem))

    def earlier(self, classes: int) -> Counts:
        """The sum of all earlier sessions; the files of this session get the next number.

        A file that is damaged, or that holds an image of another one (two runs wrote here at once), is left out with a
        note: its images are not in the sum and are evaluated again.
        """
        self.session = 1 + max((int(path.stem.split("-")[0]) for path in self.parts()), default=-1)
        total = Counts.empty(classes)
        for path in self.parts():
            try:
                total += Counts(*read_progress(path, classes))
            except ValueError as error:
                print(f"note: progress file {path}: {error}; its images are evaluated again", file=sys.stderr)
        return total

    def save(self, counts: Counts, rank: int) -> None:
        """What process `rank` has counted in this session; between two saves, images are only added.

        Raises InputError where files cannot be written; what was saved before is intact.
        """
        path = self.folder / f"{self.session:04d}-{rank:04d}.npz"
        file = self._files.setdefault(path, ProgressFile(path))
        try:
            file.save(counts.matrix, counts.images, counts.skipped, counts.seconds)
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
