"""The files of one split of a dataset."""

from dataclasses import dataclass

from datasets.checks import check_text, checked_names, is_whole
from proxyclip.errors import InputError


@dataclass(frozen=True)
class Split:
    """Where the images and the ground truth of one split are.

    images, labels: patterns below the dataset's folder; `{}` stands for the stem, which may contain folders
    ("frankfurt/frankfurt_000000_000294"). listing: a text file below the folder with one stem per line; empty: every
    image and every label that matches. count: the expected number of images; several numbers where published copies
    differ. prepare: the converters that write the labels, in order (`python -m datasets.prepare NAME`); empty if the
    download contains them.

    Raises InputError for a field of the wrong type.
    """

    images: str
    labels: str
    listing: str = ""
    count: tuple[int, ...] = ()
    prepare: tuple[str, ...] = ()

    def __post_init__(self):
        for field in ("images", "labels"):
            pattern = getattr(self, field)
            check_text(pattern, f"Split.{field}")
            if pattern.count("{}") != 1:
                raise InputError(f"the pattern {pattern!r} must contain {{}} exactly once, in place of the stem")
        if not isinstance(self.listing, str):
            raise InputError(f"Split.listing must be a path below the dataset's folder, not {self.listing!r}")
        if not isinstance(self.count, tuple) or not all(is_whole(number, 1) for number in self.count):
            raise InputError(f"Split.count must be a tuple of whole numbers such as (1449,), not {self.count!r}")
        checked_names(self.prepare, "Split.prepare")
