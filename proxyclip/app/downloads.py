"""The files of a result that a person can save."""

import io
import json

from proxyclip.app.held import Result
from proxyclip.errors import InputError, nearest

KINDS = {"overlay": "image/png", "labels": "image/png", "json": "application/json"}


def download(result: Result, kind: str, alpha: float) -> tuple[bytes, str, str]:
    """Content, media type and file name, as `Segmentation.save` writes them. alpha: of the overlay."""
    if kind not in KINDS:
        raise InputError(f"unknown kind of file {kind!r}; {nearest(kind, KINDS)}")
    segmentation = result.segmentation
    if kind == "json":
        text = json.dumps(segmentation.summary(), indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode(errors="backslashreplace"), KINDS[kind], "segmentation.json"
    image = segmentation.overlay(alpha) if kind == "overlay" else segmentation.label_image()
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue(), KINDS[kind], f"segmentation_{kind}.png"
