"""Scenes that are generated once and kept in a folder: to read one takes a thirtieth of the time to generate it.

A scene is stored when it is first asked for, under a temporary name that is then renamed: any number of processes can
share a folder, and be interrupted at any moment. The folder's name changes with the code that generates scenes.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from datasets.folder import Sample
from proxyclip.errors import InputError
from proxyclip.files import writable_folder, write_whole


class StoredScenes(Sequence):
    """The given scenes, read from FOLDER/VERSION-SIZE/STEM.npy where these files exist. Picklable.

    Raises InputError if files cannot be written there.
    """

    def __init__(self, scenes: Sequence, folder: Path):
        self.scenes, self.items = scenes, scenes.items
        self.folder = writable_folder(folder / f"{generator_version()}-{scenes.size}")

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        stem, side = self.items[index].stem, self.scenes.size
        path = self.folder / f"{stem}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
            stored = np.load(path)  # (size, size, 4) uint8: RGB and class
            if (stored.shape, stored.dtype) == ((side, side, 4), np.uint8):
                return Sample(stem, stored[..., :3].copy(), stored[..., 3].astype(np.int32))
        sample = self.scenes[index]
        stored = np.dstack([sample.image, sample.label.astype(np.uint8)])
        try:
            write_whole(path, lambda file: np.save(file, stored))
        except OSError as error:
            raise InputError(f"cannot store the scene {path}: {error.strerror or error}") from None
        return sample


@cache
def generator_version() -> str:
    """Differs whenever a file of this package does."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
