"""What an evaluation needs beside a model.

A configuration is a Python file without control flow that sets `config`. It says which dataset, how its classes are
asked for and how images are cut; the data root, the model and the device are flags of the script that reads it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets.segmentation import SegmentationData
from proxyclip.errors import InputError, nearest

BACKGROUNDS = ("none", "threshold", "vocabulary")


@dataclass(frozen=True)
class EvalConfig:
    """One benchmark as it is run.

    data: a `SegmentationData`, or whatever has its name, classes, colours, splits, unseen, void_rule, open and locate,
        as `DrawnScenes` does.
    prompts: class name -> the words that are asked for instead of the name, synonyms separated by "; ".
    background: what class 0 of a dataset with a background stands for.
        "none": a class like any other, and there need not be one. "threshold": the word "background", and all pixels
        whose winning probability is below `threshold`. "vocabulary": its prompts, a list of things that count as
        background, and all pixels below the threshold if one is set. Published scores depend on the list.
    short_side, crop, stride: pixels: the image's short side after resizing, the side and the step of the windows.
    """

    data: SegmentationData
    prompts: Mapping[str, str] = field(default_factory=dict)
    background: str = "none"
    threshold: float | None = None
    short_side: int = 336
    crop: int = 336
    stride: int = 112
    split: str = "val"

    def __post_init__(self):
        for name in self.prompts:
            if name not in self.data.classes:
                raise InputError(f"prompts: {self.data.name} has no class {name!r}; {nearest(name, self.data.classes)}")
        for name in ("short_side", "crop", "stride"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise InputError(f"{name} must be a whole number of pixels, at least 1, not {value!r}")
        if self.stride > self.crop:
            raise InputError(f"stride {self.stride} is larger than crop {self.crop}: windows would leave gaps")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background must be one of {', '.join(BACKGROUNDS)}, not {self.background!r}")
        if self.background != "none" and self.data.classes[0] != "background":
            raise InputError(f"background={self.background}: class 0 of {self.data.name} is {self.data.classes[0]}")
        if self.background == "vocabulary" and "background" not in self.prompts:
            raise InputError("background=vocabulary: prompts must hold the words for the class background")
        if self.threshold is None and self.background == "threshold":
            raise InputError("background=threshold needs a threshold")
        if self.threshold is not None and self.background == "none":
            raise InputError(f"threshold={self.threshold} does not go with background=none; set threshold=none as well")
        if self.threshold is not None and not (isinstance(self.threshold, float) and 0 < self.threshold < 1):
            raise InputError(f"threshold must be a probability between 0 and 1, not {self.threshold!r}")
        if self.split not in self.data.splits:
            raise InputError(
                f"split: {self.data.name} has no split {self.split!r}; {nearest(self.split, self.data.splits)}"
            )

    @property
    def queries(self) -> tuple[str, ...]:
        """The words of each class in label order, synonyms separated by "; "."""
        asked = dict(self.prompts)
        if self.background != "vocabulary":
            asked.pop("background", None)
        return tuple(asked.get(name, name) for name in self.data.classes)

    def protocol(self) -> dict:
        """Everything here that a score depends on, as plain values: two runs with the same can be compared."""
        return {
            "dataset": self.data.name,
            "split": self.split,
            "short_side": self.short_side,
            "crop": self.crop,
            "stride": self.stride,
            "background": self.background,
            "threshold": self.threshold,
            "void": self.data.void_rule,
            "queries": hashlib.sha256("\n".join(self.queries).encode()).hexdigest()[:12],
        }
