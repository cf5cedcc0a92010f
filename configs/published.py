"""Scores as papers print them, for reference columns: never measured here, always marked as published."""

import json
from pathlib import Path

PUBLISHED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def published_miou(model: str, clip: str, vfm: str | None, dataset: str) -> float | None:
    """The printed mIoU of the same models on the same dataset, percent, or None if no paper has it."""
    rows = (row for row in PUBLISHED["mIoU"] if (row["model"], row["clip"], row["vfm"]) == (model, clip, vfm))
    return next((row["mIoU"][dataset] for row in rows if dataset in row["mIoU"]), None)
