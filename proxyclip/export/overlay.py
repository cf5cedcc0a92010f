"""The image with its classes in colour and a legend with their areas, as JPEG: for people, not for programs."""

import io
from dataclasses import dataclass

from proxyclip.export._format import BaseFormat
from proxyclip.export.record import ImageRecord
from proxyclip.segmentation import Segmentation

QUALITY = 92  # of JPEG, 0 to 100


@dataclass(frozen=True)
class Format(BaseFormat):
    """`Segmentation.overlay` with its legend, as JPEG."""

    FOLDER = "overlays"
    SUFFIX = ".jpg"

    def encode(self, result: Segmentation, image: ImageRecord) -> bytes:
        file = io.BytesIO()
        result.overlay().convert("RGB").save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
