"""What `segment` returns: a label for every pixel, and ways to look at it and to keep it."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from proxyclip.files import writable_folder, write_whole
from proxyclip.pictures.legend import with_legend, with_note
from proxyclip.pictures.overlay import colours_over, heatmap
from proxyclip.pictures.palette import class_colours
from proxyclip.vocabulary import SEPARATOR


@dataclass
class Segmentation:
    """One segmented image of H x W pixels.

    `labels` (H, W) uint8, or int32 where there are more classes than that holds: index into `classes`.
    `confidence` (H, W) float32: softmax probability of the winning class.
    `classes`: the names as given, "car; truck" for a class with two.
    `image` (H, W, 3) uint8 RGB: the photograph.
    `settings`: how it was made, in types that JSON knows.
    `probabilities`: class name -> (H, W) float32, for the classes that were asked for.
    """

    labels: np.ndarray
    confidence: np.ndarray
    classes: list[str]
    image: np.ndarray
    settings: dict = field(default_factory=dict)
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)

    def colours(self) -> np.ndarray:
        """(classes, 3) uint8 RGB: the same name has the same colour in every result, save where two names clash."""
        return class_colours(self.classes)

    def areas(self) -> dict[str, float]:
        """Class name -> its share of the pixels, 0 to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {name: count / self.labels.size for name, count in zip(self.classes, counts.tolist(), strict=True)}

    def overlay(self, alpha: float = 0.55, legend: bool = True, note: str = "") -> Image.Image:
        """The photograph under the colours of its classes, of weight `alpha` (0 to 1), with their areas.

        Tiny photographs are enlarged. `note` is written above the picture.
        """
        colours = self.colours()
        picture = colours_over(self.image, self.labels, colours, alpha)
        if legend:
            picture = with_legend(picture, self.entries())
        return with_note(picture, note) if note else picture

    def entries(self) -> list[tuple[str, float, np.ndarray]]:
        """What the legend lists: first name, share and colour of each class that was found, the largest first."""
        found = [
            (name.split(SEPARATOR)[0].strip(), area, colour)
            for (name, area), colour in zip(self.areas().items(), self.colours(), strict=True)
            if area > 0
        ]
        return sorted(found, key=lambda entry: -entry[1])

    def save(self, folder: str | os.PathLike, stem: str = "segmentation", note: str = "") -> dict[str, Path]:
        """Writes everything into `folder`, which is made if need be; returns what was written where.

        "overlay": STEM_overlay.png; "labels": STEM_labels.png, with the classes' colours as its palette, or 16-bit grey
        above 255 classes; "json": STEM.json with classes, colours, areas, mean confidences and settings. For each class
        of `probabilities`, "heatmap NAME": STEM_heatmap_NAME.png and "probability NAME": STEM_probability_NAME.png,
        16-bit grey, 65535 for 1. Raises InputError for a folder that cannot be written to.
        """
        folder = writable_folder(folder)
        pictures = {"overlay": ("overlay", self.overlay(note=note)), "labels": ("labels", self.label_picture())}
        for name, file_name in zip(self.probabilities, file_names(self.probabilities), strict=True):
            probability = self.probabilities[name]
            picture = heatmap(self.image, probability)
            sixteen_bit = np.rint(65535 * probability.clip(0, 1)).astype(np.uint16)
            pictures[f"heatmap {name}"] = f"heatmap_{file_name}", with_note(picture, note) if note else picture
            pictures[f"probability {name}"] = f"probability_{file_name}", Image.fromarray(sixteen_bit)
        written = {
            what: write_whole(folder / f"{stem}_{ending}.png", lambda file, picture=picture: picture.save(file, "PNG"))
            for what, (ending, picture) in pictures.items()
        }
        text = json.dumps(self.summary(), indent=1, ensure_ascii=False)
        written["json"] = write_whole(folder / f"{stem}.json", lambda file: file.write(text.encode()))
        return written

    def label_picture(self) -> Image.Image:
        """The labels as an image: with a palette, or 16-bit grey above 255 classes."""
        if len(self.classes) > 255:
            return Image.fromarray(self.labels.astype(np.uint16))
        picture = Image.fromarray(self.labels.astype(np.uint8))
        picture.putpalette(self.colours().tobytes())
        return picture

    def summary(self) -> dict:
        """Everything but the maps themselves, ready for JSON; the mean confidence of an absent class is None."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        sums = np.bincount(self.labels.ravel(), self.confidence.ravel(), minlength=len(self.classes))
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "classes": [
                {
                    "label": label,
                    "name": name,
                    "colour": "#" + bytes(colour).hex(),
                    "area": area,
                    "mean_confidence": sums[label] / counts[label] if counts[label] else None,
                }
                for label, ((name, area), colour) in enumerate(zip(self.areas().items(), self.colours(), strict=True))
            ],
            "settings": self.settings,
        }


def file_names(names) -> list[str]:
    """A distinct, harmless part of a file name for each class: its first name, letters and digits kept."""
    made = []
    for name in names:
        plain = re.sub(r"\W+", "_", name.split(SEPARATOR)[0]).strip("_")[:60] or "class"
        same = sum(other == plain or other.startswith(plain + "-") for other in made)
        made.append(f"{plain}-{same + 1}" if same else plain)
    return made
