"""The configuration of an evaluation.

A configuration is a Python file without control flow that sets `config`. It names the dataset, the prompts for its
classes, and how images are cut. The data root, the model and the device are command-line options.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_type_hints

from datasets.segmentation import SegmentationData
from proxyclip.errors import InputError, NotFound, nearest
from proxyclip.options import check_type
from proxyclip.vocabulary import Vocabulary, class_lines, read_class_file, split_names

MODEL_FIELDS = ("short_side", "crop", "stride", "logit_scale")  # options of the model that a benchmark may set


@dataclass(frozen=True)
class EvalConfig:
    """One benchmark with its standard protocol.

    data: a `SegmentationData`, or an object with name, classes, colours, splits, unseen, void_rule, open and locate.
    prompts: class name -> the words to use in its place, synonyms separated by "; ".
    background: the meaning of class 0 in a dataset with a background.
        "none": a class like any other, or no background. "threshold": the word "background", and all pixels whose
        winning probability is below `threshold`. "vocabulary": the prompts of the class, a list of things that count
        as background, and all pixels below the threshold if one is set. Published scores depend on the list. Heads use
        it, too, though no other prompts.
    short_side, crop, stride: in pixels: the image's short side after resizing (0: not resized), the side (0: the whole
    image) and the stride of the windows. logit_scale: factor applied to the cosine similarity. None: the model's own.
    split: of the dataset.
    """

    data: SegmentationData
    prompts: Mapping[str, str] = field(default_factory=dict)
    background: str = "none"
    threshold: float | None = None
    short_side: int | None = None
    crop: int | None = None
    stride: int | None = None
    logit_scale: float | None = None
    split: str = "val"

    def __post_init__(self):
        if isinstance(self.data, type) or not hasattr(self.data, "classes"):
            raise InputError(f"data must be a dataset, such as SegmentationData(...), not {self.data!r}")
        hints = get_type_hints(EvalConfig)
        for entry in fields(self):
            if entry.name not in ("data", "prompts"):
                check_type(entry.name, getattr(self, entry.name), hints[entry.name])
        if not isinstance(self.prompts, Mapping):
            raise InputError(f"prompts must be a dict from class names to words, not {self.prompts!r}")
        for name in self.prompts:
            if name not in self.data.classes:
                raise InputError(f"prompts: {self.data.name} has no class {name!r}; {nearest(name, self.data.classes)}")
        for name, least in (("short_side", 0), ("crop", 0), ("stride", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name} must be a whole number of pixels, at least {least}, not {value}")
        if self.crop and self.stride and self.stride > self.crop:
            raise InputError(f"stride {self.stride} is larger than crop {self.crop}: windows would leave gaps")
        self._check_background()
        if self.split not in self.data.splits:
            raise InputError(
                f"split: {self.data.name} has no split {self.split!r}; {nearest(self.split, self.data.splits)}"
            )

    def _check_background(self) -> None:
        backgrounds = ("none", "threshold", "vocabulary")
        if self.background not in backgrounds:
            raise InputError(f"background must be one of {', '.join(backgrounds)}, not {self.background!r}")
        if self.background != "none" and self.data.classes[0] != "background":
            first = self.data.classes[0]
            raise InputError(f"background={self.background}: class 0 of {self.data.name} is {first}, not background")
        if self.background == "vocabulary" and "background" not in self.prompts:
            raise InputError("background=vocabulary needs prompts for the class background")
        if self.threshold is None and self.background == "threshold":
            raise InputError("background=threshold needs a threshold")
        if self.threshold is not None and self.background == "none":
            raise InputError(f"threshold={self.threshold} conflicts with background=none; set threshold=none as well")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"threshold must be a probability between 0 and 1, not {self.threshold!r}")

    @property
    def queries(self) -> tuple[str, ...]:
        """The words for each class in label order, synonyms separated by "; "."""
        asked = dict(self.prompts)
        if self.background != "vocabulary":
            asked.pop("background", None)
        return tuple(asked.get(name, name) for name in self.data.classes)

    @property
    def vocabulary(self) -> Vocabulary:
        """The names of the classes, and the words to use in their place."""
        return Vocabulary.parse(self.queries, self.data.classes, ["background"] * (self.background == "vocabulary"))

    @property
    def model_options(self) -> dict:
        """The model options set by this benchmark."""
        return {name: value for name in MODEL_FIELDS if (value := getattr(self, name)) is not None}

    def protocol(self) -> dict:
        """Everything here that a score depends on besides the model's options, as plain values."""
        return {
            "dataset": self.data.name,
            "split": self.split,
            "background": self.background,
            "threshold": self.threshold,
            "void": self.data.void_rule,
            "queries": hashlib.sha256("\n".join(self.queries).encode()).hexdigest()[:12],
        }


WORDS = Path(__file__).resolve().parent / "words"


def read_words(name: str | Path, count: int | None = None) -> tuple[str, ...]:
    """The lines of a class file, each with its synonyms separated by "; ". A name without a path is a file in `words/`.

    Whitespace around names and line endings are ignored. Raises NotFound, and InputError for an empty or repeated line
    and if there are not `count` lines.
    """
    path = WORDS / f"{name}.txt" if Path(name).name == str(name) and not Path(name).suffix else Path(name)
    if not os.path.exists(path):
        known = sorted(file.stem for file in WORDS.glob("*.txt"))
        raise NotFound(f"class file {path} does not exist; included: {', '.join(known)}")
    words = []
    for number, line in enumerate(class_lines(read_class_file(path)), start=1):
        synonyms = split_names(line)
        if not all(synonyms):
            raise InputError(f"{path}, line {number}: empty name")
        if (entry := "; ".join(synonyms)) in words:
            raise InputError(f"{path}, line {number}: {entry!r} repeats line {words.index(entry) + 1}")
        words.append(entry)
    if not words or count not in (None, len(words)):
        expected = f"expected {count}, one per class" if count else "write one class per line"
        raise InputError(f"{path} has {len(words)} lines; {expected}")
    return tuple(words)


def in_one_word(names: str) -> dict[str, str]:
    """Prompts without spaces, as some published runs write them: "traffic light, hot dog" -> {"traffic light":
    "trafficlight", "hot dog": "hotdog"}."""
    return {name: name.replace(" ", "") for name in names.split(", ")}
