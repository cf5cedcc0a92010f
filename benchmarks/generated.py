"""Generated images and labels in a folder, for benchmarks of everything that reads files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from proxyclip.images import read_image


def photograph(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Coarse colours and fine noise, of size (H, W): about as slow to decode as a photograph."""
    height, width = size
    coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).resize((width, height), 3)
    return Image.fromarray(
        (np.asarray(coarse) + random.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)
    )


class Item(NamedTuple):
    stem: str


class Samples:
    """`count` JPEG files of one size (H, W) with PNG labels of so many classes; `different` of them differ."""

    def __init__(self, folder: Path, count: int, size: tuple[int, int], classes: int, different: int = 50):
        self.folder, self.different = folder, min(count, different)
        self.items = [Item(f"{index:06d}") for index in range(count)]
        random, (height, width) = np.random.default_rng(0), size
        for index in range(self.different):
            photograph(random, size).save(folder / f"{index}.jpg", quality=92)
            blocks = random.integers(0, classes, (8, 10)).astype(np.uint16)
            label = np.kron(blocks, np.ones((height // 8 + 1, width // 10 + 1), np.uint16))[:height, :width]
            Image.fromarray(label).save(folder / f"{index}.png")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray, np.ndarray]:
        file = self.folder / str(index % self.different)
        label = np.asarray(Image.open(file.with_suffix(".png"))).astype(np.int32)  # (H, W)
        return self.items[index].stem, read_image(file.with_suffix(".jpg")), label
