"""What is kept of every prediction: class indices as a PNG, and image, label and prediction side by side."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.evaluation.prefetch import Ready
from proxyclip.files import write_whole
from proxyclip.pictures.panels import panels


@dataclass(frozen=True)
class Keeper:
    """Called with each image and its prediction (H, W); writes STEM.png to the folders that are given.

    predictions: class indices, 8 bits, or 16 above 255 classes. pictures: see `panels`. classes, colours: K names and
    (r, g, b). Raises InputError if a file cannot be written.
    """

    classes: tuple[str, ...]
    colours: tuple
    predictions: Path | None = None
    pictures: Path | None = None

    def __call__(self, ready: Ready, labels: np.ndarray) -> None:
        if self.predictions:
            indices = labels.astype(np.uint8 if len(self.classes) <= 255 else np.uint16)
            write_png(self.predictions / f"{ready.stem}.png", Image.fromarray(indices))
        if self.pictures:
            sheet = panels(ready.picture, ready.label, labels, self.classes, self.colours)
            write_png(self.pictures / f"{ready.stem}.png", sheet)


def write_png(path: Path, picture: Image.Image) -> None:
    """Writes it as a whole; a stem may hold folders."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: picture.save(file, "PNG"))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from None
