"""The labels that a model is trained on, in the three settings of zero-shot segmentation.

What a model may not know is removed from a label map when it is read, before any augmentation: a crop that is chosen by
its labels would otherwise depend on it.
"""

from dataclasses import dataclass

import numpy as np

from datasets.checks import checked_names
from datasets.label_map import VOID
from proxyclip.errors import InputError, nearest

UNLABELLED = -2  # in a label map for training: a pixel of an unseen class, whichever it is


@dataclass(frozen=True)
class LabelTable:
    """A new label for each class of a dataset: `table(label)` applies it to a label map. Void stays void.

    setting: "inductive", "transductive" or "fully". names: of the classes that the new labels 0, 1, ... stand for.
    values: new label of each of the dataset's classes.
    """

    setting: str
    names: tuple[str, ...]
    values: tuple[int, ...]

    @classmethod
    def inductive(cls, classes: tuple[str, ...], seen: tuple[str, ...]) -> "LabelTable":
        """Seen classes are numbered in the order of `classes`; pixels of unseen classes are void.

        Raises InputError for a name that is not a class, or is given twice.
        """
        names = seen_in_order(classes, seen)
        return cls("inductive", names, tuple(names.index(name) if name in names else VOID for name in classes))

    @classmethod
    def transductive(cls, classes: tuple[str, ...], seen: tuple[str, ...]) -> "LabelTable":
        """Seen classes keep their number; pixels of unseen classes are UNLABELLED. Errors as in `inductive`."""
        names = seen_in_order(classes, seen)
        values = (index if name in names else UNLABELLED for index, name in enumerate(classes))
        return cls("transductive", tuple(classes), tuple(values))

    @classmethod
    def fully(cls, classes: tuple[str, ...]) -> "LabelTable":
        """All classes keep their number."""
        names = checked_names(classes, "classes")
        return cls("fully", names, tuple(range(len(names))))

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """(H, W) int32, class numbers or VOID -> (H, W) int32; InputError for any other value."""
        if label.min() < VOID or label.max() >= len(self.values):
            known = f"{VOID} (void) ... {len(self.values) - 1}"
            raise InputError(f"a label map has values from {label.min()} to {label.max()}, not {known}")
        return np.array([VOID, *self.values], np.int32)[label + 1]


def seen_in_order(classes: tuple[str, ...], seen: tuple[str, ...]) -> tuple[str, ...]:
    """The seen classes in the order of all classes."""
    classes, seen = checked_names(classes, "classes"), checked_names(seen, "seen")
    if not seen:
        raise InputError("seen must name at least one class")
    for name in seen:
        if name not in classes:
            raise InputError(f"seen: there is no class {name!r}; {nearest(name, classes)}")
    return tuple(name for name in classes if name in seen)
