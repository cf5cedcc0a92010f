"""Images in one folder and label maps in another, paired by name."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.folder import Item, Sample, read_pair
from datasets.label_map import LabelValues
from proxyclip.errors import InputError, NotFound


class LabelledFolder(Sequence):
    """LABELS/a/b.png with the image IMAGES/a/b of any format: `items[i]` names a pair, `[i]` reads it.

    classes: number of classes, with the background; a label map holds 0 for the background, k for the class k, and 255
    where nothing is scored. Raises NotFound for a folder, or a label map without image, and InputError for a label map
    with several.
    """

    def __init__(self, images: Path, labels: Path, classes: int):
        for folder in (images, labels):
            if not folder.is_dir():
                raise NotFound(f"the folder {folder} does not exist")
        self.values = LabelValues("the class list", classes)
        found = {path.relative_to(labels).with_suffix("").as_posix(): path for path in sorted(labels.rglob("*.png"))}
        if not found:
            raise NotFound(f"the folder of labels {labels} contains no .png file")
        self.items = [Item(stem, image_of(images, stem), label) for stem, label in found.items()]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Raises NotFound or InputError, naming the file, if the pair cannot be used."""
        return read_pair(self.items[index], self.values)


def image_of(folder: Path, stem: str) -> Path:
    """The one file with that name and any ending."""
    parent, name = (folder / stem).parent, Path(stem).name
    found = sorted(file for file in os.listdir(parent) if os.path.splitext(file)[0] == name) if parent.is_dir() else []
    if len(found) != 1:
        what = f"the label {stem}.png has {'several images' if found else 'no image'}"
        raise (InputError if found else NotFound)(f"{what} in {parent}: {', '.join(found) or f'{name}.*'}")
    return parent / found[0]
