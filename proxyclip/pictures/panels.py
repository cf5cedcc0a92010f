"""Image, ground truth and predictions side by side."""

import numpy as np
from PIL import Image

from proxyclip.pictures.display import display_size, nearest, smooth
from proxyclip.pictures.legend import PAPER, font_size, joined, with_caption, with_legend
from proxyclip.pictures.overlay import overlay
from proxyclip.vocabulary import split_names

NOT_SCORED, GAP, ALPHA = (190, 190, 190), 8, 0.75  # colour of void pixels; pixels between panels; weight of colours
WIDE_GAP = 12  # pixels, between panels in several rows


def panels(image: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray, classes, colours) -> Image.Image:
    """Image | ground truth | prediction, each under its name, above a legend of both maps' classes.

    image: (h, w, 3) uint8. ground_truth, prediction: class indices (H, W), brought to the image's size; negative where
    the ground truth is void, which is grey. colours: (K, 3) of the K classes.
    """
    size = image.shape[:2]
    names = [*(split_names(str(name))[0] for name in classes), "not scored"]
    colours = np.array([*colours, NOT_SCORED], np.uint8)  # (K + 1, 3)
    maps = {
        "ground truth": nearest(np.where(ground_truth < 0, len(classes), ground_truth), size),  # (h, w)
        "prediction": nearest(prediction, size),  # (h, w)
    }
    tinted = {"image": Image.fromarray(smooth(image, display_size(*size)))}
    tinted |= {title: overlay(image, labels, colours, ALPHA) for title, labels in maps.items()}
    text_size = font_size(*tinted["image"].size)
    sheet = joined([with_caption(one, title, PAPER, text_size) for title, one in tinted.items()], below=False, gap=GAP)
    return with_legend(sheet, found_entries(names, colours, maps.values()), text_size)


def comparison(rows: list[dict[str, Image.Image]], names, colours: np.ndarray, maps, text_size: int) -> Image.Image:
    """Rows of images, each under its title, above a legend of the classes in any of the maps (H, W)."""
    captioned = [[with_caption(panel, title, PAPER, text_size) for title, panel in row.items()] for row in rows]
    sheet = joined([joined(row, below=False, gap=WIDE_GAP) for row in captioned], gap=WIDE_GAP)
    return with_legend(sheet, found_entries(names, colours, maps), text_size)


def found_entries(names, colours: np.ndarray, maps) -> list[tuple[str, None, np.ndarray]]:
    """A legend's entries for the classes that occur in any of the maps (H, W), the largest first."""
    counts = sum(np.bincount(labels.ravel(), minlength=len(names)) for labels in maps)  # (K,)
    order = np.argsort(-counts, kind="stable")
    return [(names[index], None, colours[index]) for index in order if counts[index]]
