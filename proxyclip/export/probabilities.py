"""The probability of every class at every pixel, as compressed NumPy archives.

`numpy.load(path)` gives "probabilities", (K, H, W) float16, 0 to 1, in label order, and "classes", the K names. float16
has three to four digits; probabilities below 3e-8 become 0. A file takes up to 2 K H W bytes, which deflate, at its
fastest level, makes smaller where most probabilities are near 0.
"""

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from proxyclip.errors import InputError
from proxyclip.export._format import BaseFormat
from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation


@dataclass(frozen=True)
class Format(BaseFormat):
    """float16 probabilities (K, H, W) and class names, as .npz."""

    FOLDER = "probabilities"
    SUFFIX = ".npz"
    PROBABILITIES = True

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        """Raises InputError for a result that lacks the probabilities of a class."""
        if missing := [name for name in self.classes if name not in result.probabilities]:
            raise InputError(f"the result has no probabilities for {missing[0]!r}: segment with probabilities=classes")
        maps = np.empty((len(self.classes), *result.labels.shape), np.float16)  # (K, H, W)
        for index, name in enumerate(self.classes):
            maps[index] = result.probabilities[name]
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in (("probabilities", maps), ("classes", np.array(self.names))):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
        return file.getvalue()
