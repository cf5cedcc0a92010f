"""The synthetic scenes as a dataset beside those on disk: each scene is generated on demand, or once and stored."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import scenes
from datasets.folder import ImagePair
from datasets.label_map import Colours
from datasets.segmentation import data_root
from proxyclip.errors import InputError, nearest
from proxyclip.files import writable_folder, write_whole

TRAINING = scenes.SPLITS["train"][:32_000]  # what the embedded models are trained on; there are more
# The usual colour of each class, where it has one, and far from the others.
PALETTE = {
    "sky": (150, 205, 245), "sea": (30, 90, 170), "sand": (235, 215, 150), "grass": (90, 170, 70),
    "snow": (235, 240, 250), "road": (105, 105, 115), "brick wall": (165, 80, 60), "wooden floor": (190, 140, 85),
    "mountain": (135, 120, 150), "sun": (255, 225, 40), "cloud": (200, 200, 210), "tree": (20, 105, 50),
    "house": (225, 110, 90), "car": (200, 20, 40), "boat": (120, 60, 20), "ball": (255, 130, 20),
    "fish": (0, 170, 180), "bird": (90, 60, 200), "flower": (250, 120, 190), "mushroom": (150, 20, 90),
    "star": (215, 255, 60), "balloon": (190, 90, 230), "umbrella": (60, 230, 170), "cup": (60, 60, 60),
}  # fmt: skip


class SceneItem(NamedTuple):
    """The name of a scene and its seed."""

    stem: str
    seed: int


@dataclass(frozen=True)
class SyntheticScenes:
    """A dataset without downloads, with the fields and methods of `SegmentationData` that an evaluation uses.

    name: as it is printed in results. size: of the scenes, in pixels. splits: name -> seeds.
    unseen: names of classes that zero-shot training leaves out, by the name of the split. store: whether scenes are
    stored in `scenes` below the data root when they are first generated, for training: 2 GB for all of "train".
    """

    name: str = "scenes"
    size: int = 128
    classes: tuple[str, ...] = scenes.CLASSES
    splits: Mapping[str, range] = field(default_factory=lambda: scenes.SPLITS | {"train": TRAINING})
    unseen: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"scenes": scenes.UNSEEN})
    void_rule: str = "none"
    store: bool = False

    @property
    def colours(self) -> Colours:
        """(r, g, b) of each class, in label order."""
        return tuple(PALETTE[name] for name in self.classes)

    def open(
        self, root: str | Path | None = None, split: str = "test", allow_missing: bool = False
    ) -> "SceneSamples | StoredScenes":
        """The scenes of a split; InputError if there is no such split. root: where they are stored, if at all."""
        if split not in self.splits:
            raise InputError(f"{self.name} has no split {split!r}; {nearest(split, self.splits)}")
        generated = SceneSamples(self.size, self.splits[split])
        return StoredScenes(generated, data_root(root) / "scenes") if self.store else generated

    def locate(self, root: str | Path | None = None, split: str = "test") -> None:
        """Does nothing: there is no folder to look for."""


class SceneSamples(Sequence):
    """The scenes of some seeds: `items[i]` names one, `[i]` generates it. Picklable."""

    def __init__(self, size: int, seeds: range):
        self.size = size
        self.items = [SceneItem(f"scene-{seed:06d}", seed) for seed in seeds]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index: int) -> ImagePair:
        """image (size, size, 3) uint8, label (size, size) int32; no pixel is void."""
        stem, seed = self.items[index]
        image, label = scenes.draw(seed, self.size)
        return ImagePair(stem, image, label.astype(np.int32))


class StoredScenes(Sequence):
    """The given scenes, read from FOLDER/VERSION-SIZE/STEM.npy where these files exist. Picklable.

    Raises InputError if files cannot be written there.
    """

    def __init__(self, scenes: Sequence, folder: Path):
        self.scenes, self.items = scenes, scenes.items
        self.folder = writable_folder(folder / f"{generator_version()}-{scenes.size}")

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index: int) -> ImagePair:
        stem, side = self.items[index].stem, self.scenes.size
        path = self.folder / f"{stem}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
            stored = np.load(path)  # (size, size, 4) uint8: RGB and class
            if (stored.shape, stored.dtype) == ((side, side, 4), np.uint8):
                return ImagePair(stem, stored[..., :3].copy(), stored[..., 3].astype(np.int32))
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
