"""What an evaluation has counted so far, kept so that it can be stopped at any moment and go on exactly.

Every process writes what it has counted to a file of its own, matrix and names of the images in it together, by
renaming: whatever happens, the names say exactly which images are in the matrix. A run that goes on never touches the
files of those before it; it leaves out their images and writes files of a new session. So all files of a run hold
disjoint images, and their sum is the result, whatever the number of processes was each time.
"""

import hashlib
import json
import re
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from proxyclip.errors import InputError
from proxyclip.files import write_whole


@dataclass
class Tally:
    """Counts of some images.

    matrix: (K, K) int64. images: stem -> percent (aAcc, mIoU) of that image alone, nan where nothing is labelled.
    skipped: stem -> why an image could not be used. seconds: time that rank 0 spent on them.
    """

    matrix: np.ndarray
    images: dict[str, tuple[float, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def empty(cls, classes: int) -> "Tally":
        return cls(np.zeros((classes, classes), np.int64))

    def __add__(self, other: "Tally") -> "Tally":
        """Of the images of both, which must be different ones; what one of them skipped the other may have counted."""
        if twice := self.images.keys() & other.images.keys():
            raise InputError(f"image {min(twice)} is counted twice in the kept progress: --restart gives it up")
        return Tally(
            self.matrix + other.matrix,
            images := self.images | other.images,
            {stem: why for stem, why in (self.skipped | other.skipped).items() if stem not in images},
            self.seconds + other.seconds,
        )

    @property
    def done(self) -> set[str]:
        """The images that need not be looked at again."""
        return self.images.keys() | self.skipped.keys()

    def save(self, path: Path) -> None:
        """Writes it as a whole, or raises InputError and leaves what was there."""
        facts = json.dumps({"images": self.images, "skipped": self.skipped, "seconds": self.seconds})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: np.savez(file, matrix=self.matrix, facts=np.array(facts)))
        except OSError as error:
            raise InputError(
                f"progress cannot be written to {path} ({error.strerror or error}); what was written before is kept: "
                "mend that and go on with --resume"
            ) from None

    @classmethod
    def load(cls, path: Path) -> "Tally":
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["matrix"], **json.loads(str(stored["facts"])))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"progress file {path} is damaged ({error}): --restart gives up what is kept") from None


class Progress:
    """The files of one run: WORKDIR/progress/KEY/SESSION-RANK.npz, where KEY stands for the whole protocol."""

    def __init__(self, workdir: Path, protocol: dict):
        text = json.dumps(protocol, sort_keys=True)
        self.folder = workdir / "progress" / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.session = 0

    def parts(self) -> list[Path]:
        """All files written so far."""
        return sorted(path for path in self.folder.glob("*.npz") if re.fullmatch(r"\d+-\d+", path.stem))

    def earlier(self, classes: int) -> Tally:
        """What the sessions before counted, together; the files of this session get the next number."""
        self.session = 1 + max((int(path.stem.split("-")[0]) for path in self.parts()), default=-1)
        return sum(map(Tally.load, self.parts()), Tally.empty(classes))

    def save(self, tally: Tally, rank: int) -> None:
        """What this session's process `rank` has counted."""
        tally.save(self.folder / f"{self.session:04d}-{rank:04d}.npz")

    def clear(self) -> None:
        """Forgets the run, when its result is written or when it starts anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
