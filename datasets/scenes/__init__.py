"""Synthetic scenes with a label for every pixel: `draw(seed)` gives an image and its ground truth.

The same seed gives the same image at every size, and the same bytes on every machine. The 24 classes are in
`CLASSES`, their other names in `SYNONYMS`; `compose` also gives the instances, their colours and a caption.

    python -m datasets.scenes --show 24 --size 256 --out scenes.png       a contact sheet
"""

from datasets.scenes.scene import SPLITS, Dice, Scene, compose, contact_sheet, draw
from datasets.scenes.textures import COLOURS
from datasets.scenes.words import CLASSES, SEEN, STUFF, SYNONYMS, THINGS, UNSEEN, caption

__all__ = [
    "CLASSES",
    "COLOURS",
    "SEEN",
    "SPLITS",
    "STUFF",
    "SYNONYMS",
    "THINGS",
    "UNSEEN",
    "Dice",
    "Scene",
    "caption",
    "compose",
    "contact_sheet",
    "draw",
]
