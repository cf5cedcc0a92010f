"""Writes predictions: class indices as PNG files, and panels of image, ground truth and prediction."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.files import file_name, usable, write_image
from proxyclip.pictures.overlay import panels


def run_name(dataset: str, method: str, clip: str | None, vfm: str | None, protocol: dict) -> str:
    """The name of a run's own folder: "voc20-ProxyCLIP-ViT-B-16_openai-dino-vitb8-1a2b3c4d".

    Only letters, digits, "-", "_" and "."; at most 200 bytes. Runs with different protocols get different names. For a
    clip or vfm that is a path, the last part is used.
    """
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True, default=str).encode()).hexdigest()[:8]
    last_parts = (re.split(r"[/\\]", name)[-1] for name in (clip, vfm) if name)
    words = (re.sub(r"[^A-Za-z0-9_.-]+", "_", word) for word in (dataset, method, *last_parts))
    return f"{'-'.join(words).lstrip('.-')[:190]}-{digest}"


def png_path(folder: Path, stem: str) -> Path:
    """folder/STEM.png, always inside the folder. A stem may contain folders, as in "frankfurt/0001".

    A part that is not a valid file name ("..", longer than 255 bytes, or with characters that a system rejects) is
    replaced and gets a hash, so that different stems stay different.
    """
    *parents, name = stem.split("/")
    return folder.joinpath(*map(file_name, parents), f"{file_name(name)}.png")


@dataclass(frozen=True)
class PredictionWriter:
    """Called with each image and its prediction (H, W); writes STEM.png to the given folders.

    predictions: class indices with 8 bits, or 16 above 255 classes. panels: see `pictures.panels`. classes, colours: K
    names and (r, g, b). Each run needs its own folders: see `run_name`. Raises InputError if a file cannot be written.
    """

    classes: tuple[str, ...]
    colours: tuple
    predictions: Path | None = None
    panels: Path | None = None

    def __call__(self, image: "LabelledImage", labels: np.ndarray) -> None:  # noqa: F821  (it needs torch)
        if self.predictions:
            indices = labels.astype(np.uint8 if len(self.classes) <= 255 else np.uint16)
            self.write(self.predictions, image.stem, Image.fromarray(indices))
        if self.panels:
            sheet = panels(image.pixels, np.asarray(image.label), labels, self.classes, self.colours)
            self.write(self.panels, image.stem, sheet)

    def write(self, folder: Path, stem: str, image: Image.Image) -> None:
        path = usable(png_path(folder, stem))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create the folder {path.parent}: {error.strerror or error}") from None
        write_image(path, image)
