"""The result of `segment`: a label for every pixel, and methods to display and save it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.files import output_names, writable_folder, write_image, write_whole
from proxyclip.options import check_type, fits
from proxyclip.vocabulary import split_names


@dataclass
class Segmentation:
    """The result for one image of H x W pixels.

    labels: (H, W) uint8, or int32 above 256 classes: indices into `classes`. The label of a pixel is the class with
    the highest score, or 0 if that is below the threshold.
    confidence: (H, W) float32: the winning score, which is compared with the threshold. For training-free methods, this
    is the probability of the winning class in the softmax over all names, the sum over its names (with synonyms="best"
    that of its best name), 0 to 1. It is not calibrated.
    classes: the names as given, "car; truck" for a class with two.
    image: (H, W, 3) uint8 RGB, the image that was segmented.
    settings: the settings of the model.
    probabilities: class name -> (H, W) float32, its probability at every pixel, for the requested classes.
    """

    labels: np.ndarray
    confidence: np.ndarray
    classes: list[str]
    image: np.ndarray
    settings: dict = field(default_factory=dict)
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)

    def colours(self) -> np.ndarray:
        """(K, 3) uint8 RGB: a name has the same colour in every result, unless two names clash."""
        from proxyclip.pictures.overlay import class_colours  # here and below: pictures are drawn only on request

        return class_colours(self.classes)

    def areas(self) -> dict[str, float]:
        """Class name -> its share of all pixels, 0 to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {name: count / self.labels.size for name, count in zip(self.classes, counts.tolist(), strict=True)}

    def overlay(self, alpha: float = 0.55, legend: bool = True, caption: str = "") -> Image.Image:
        """The image with its classes in colour, and a legend with their areas.

        alpha: weight of the colours, 0 to 1. caption: text above the image. Tiny images are enlarged, and images longer
        than 30,000 pixels reduced. Raises InputError for an invalid alpha.
        """
        from proxyclip.pictures.legend import with_caption, with_legend
        from proxyclip.pictures.overlay import overlay

        check_type("caption", caption, str)
        if not fits(alpha, float) or not 0 <= alpha <= 1:
            raise InputError(f"alpha is {alpha!r}; it must be a number between 0 and 1")
        sheet = overlay(self.image, self.labels, self.colours(), alpha)
        if legend:
            sheet = with_legend(sheet, self.legend_entries(), self.text_size())
        return with_caption(sheet, caption, size=self.text_size()) if caption else sheet

    def text_size(self) -> int:
        """Font size of legends and captions in pixels."""
        from proxyclip.pictures.legend import font_size
        from proxyclip.pictures.overlay import display_size

        return font_size(*display_size(*self.labels.shape))

    def legend_entries(self) -> list[tuple[str, float, np.ndarray]]:
        """First name, area and colour of each class in the result, largest first."""
        found = [
            (split_names(name)[0], area, colour)
            for (name, area), colour in zip(self.areas().items(), self.colours(), strict=True)
            if area > 0
        ]
        return sorted(found, key=lambda entry: -entry[1])

    def save(self, folder: str | os.PathLike, stem: str = "segmentation", caption: str = "") -> dict[str, Path]:
        """Writes all outputs to `folder`, which is created if necessary; returns the path of each file.

        "overlay": STEM_overlay.png; "labels": STEM_labels.png, with the class colours as its palette, or 16-bit grey
        above 255 classes; "json": STEM.json, with classes, colours, areas, mean confidences and settings. For each
        class in `probabilities`, "heatmap NAME": STEM_heatmap_NAME.png, and "probability NAME":
        STEM_probability_NAME.png, 16-bit grey with 65535 for 1; file names contain a short form of NAME. caption: text
        above overlay and heat maps.

        Raises InputError, before anything is written, if the folder is not writable or the stem cannot start a file
        name (see `output_names`); later if a file cannot be written, for example because the disk is full. Files with
        numbers are written first, and all files written before the error are complete.
        """
        names = output_names(stem, self.probabilities)
        check_type("caption", caption, str)
        folder = writable_folder(folder)
        paths = {key: folder / name for key, name in names.items()}
        text = json.dumps(self.summary(), indent=1, ensure_ascii=False, allow_nan=False)
        try:
            # A lone surrogate becomes \udXXX, which is its escape in JSON.
            write_whole(paths["json"], lambda file: file.write(text.encode(errors="backslashreplace")))
        except OSError as error:
            raise InputError(f"cannot write {paths['json']}: {error.strerror or error}") from None
        for key, image in self.images(caption):
            write_image(paths[key], image)
        return paths

    def images(self, caption: str = "") -> Iterator[tuple[str, Image.Image]]:
        """Key and content of each image that `save` writes, one at a time, those with numbers first."""
        from proxyclip.pictures.legend import with_caption
        from proxyclip.pictures.overlay import heatmap, quantised

        yield "labels", self.label_image()
        for name, probability in self.probabilities.items():
            yield f"probability {name}", Image.fromarray(quantised(probability, np.uint16))
        yield "overlay", self.overlay(caption=caption)
        for name, probability in self.probabilities.items():
            heat = heatmap(self.image, probability)
            yield f"heatmap {name}", with_caption(heat, caption, size=self.text_size()) if caption else heat

    def label_image(self) -> Image.Image:
        """The labels as an image: with a palette, or 16-bit grey above 255 classes."""
        if len(self.classes) > 255:
            return Image.fromarray(self.labels.astype(np.uint16))
        image = Image.fromarray(self.labels.astype(np.uint8))
        image.putpalette(self.colours().tobytes())
        return image

    def summary(self) -> dict:
        """Everything but the maps, as JSON types.

        The mean confidence of a class is None if the class is absent or its confidence is not finite.
        """
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        sums = np.bincount(self.labels.ravel(), self.confidence.ravel(), minlength=len(self.classes))
        return json_types(
            {
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
                    for label, ((name, area), colour) in enumerate(
                        zip(self.areas().items(), self.colours(), strict=True)
                    )
                ],
                "settings": self.settings,
            }
        )


def json_types(value):
    """The value as JSON types: arrays become lists, non-finite numbers None, and other types strings."""
    if hasattr(value, "tolist") and not isinstance(value, type):  # NumPy's and torch's scalars and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): json_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_types(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)
