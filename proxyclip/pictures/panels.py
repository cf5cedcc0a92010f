"""Image, label and prediction side by side."""

import numpy as np
from PIL import Image

from proxyclip.pictures.legend import with_legend
from proxyclip.pictures.overlay import colours_over

NOT_SCORED, GAP = (190, 190, 190), 8  # colour of void pixels; white between the panels, in pixels


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
