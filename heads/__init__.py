"""Trainable heads on CLIP: zero-shot and open-vocabulary segmentation, one head per file.

>>> import heads
>>> model = heads.load("runs/zeg_voc")
>>> model.segment("street.jpg", ["road", "car", "sky"]).save("out/")

To add a head, add a file whose name is its name, with

    Options: a frozen dataclass     its settings on top of `heads.head.Options`, with the values of the paper
    Head: type                      a `heads.head.TrainableHead`: Head(clip, options, classes, seen, known_words)
"""

import importlib
from pathlib import Path
from types import ModuleType

from proxyclip.errors import InputError, nearest

__all__ = ["find_head", "head_names", "load", "open_checkpoint", "plan"]
HERE = Path(__file__).parent


def head_names() -> list[str]:
    """The names of all heads, sorted."""
    return sorted(file.stem for file in HERE.glob("*.py") if "\nclass Head(" in file.read_text(encoding="utf-8"))


def find_head(name: str) -> ModuleType:
    """The module of one head; InputError with the nearest names for an unknown one."""
    if name not in head_names():
        raise InputError(f"unknown head {name!r}; {nearest(name, head_names())}")
    return importlib.import_module(f"{__name__}.{name}")


def __getattr__(name: str):
    if name not in __all__:  # imported when first used: `find_head` does not wait for CLIP's libraries
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(importlib.import_module("heads.build"), name)
