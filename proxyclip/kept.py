"""What is kept of every prediction: class indices as a PNG, and image, label and prediction side by side."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.legend import with_legend
from proxyclip.picture import colours_over
from proxyclip.reading import Ready

NOT_SCORED, GAP = (190, 190, 190), 8  # colour of void pixels; white between the panels, in pixels


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


def panels(picture: np.ndarray, label: np.ndarray, prediction: np.ndarray, classes, colours) -> Image.Image:
    """picture (h, w, 3) uint8, label and prediction (H, W) -> image | label | prediction, each h × w, above a legend.

    colours: (K, 3) of the K classes. Void pixels of the label are grey.
    """
    size = picture.shape[1::-1]
    colours = np.array([*colours, NOT_SCORED], np.uint8)  # (K + 1, 3)
    maps = [to_size(np.where(labels < 0, len(classes), labels), size) for labels in (label, prediction)]
    tinted = [Image.fromarray(picture), *(colours_over(picture, labels, colours, 0.75) for labels in maps)]
    width, height = tinted[1].size  # of tiny pictures an enlargement
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for index, panel in enumerate(tinted):
        sheet.paste(panel.resize((width, height)), (index * (width + GAP), 0))
    shares = sum(np.bincount(labels.ravel(), minlength=len(colours)) / labels.size for labels in maps) / 2  # (K + 1,)
    names = [*(str(name).split(";")[0] for name in classes), "not scored"]
    found = [(name, shares[index], colours[index]) for index, name in enumerate(names) if shares[index] > 0]
    return with_legend(sheet, sorted(found, key=lambda entry: -entry[1]))


def to_size(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels (H, W) at width × height `size`, by their nearest pixel."""
    return np.asarray(Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
