"""The most frequent confusions between classes."""

from typing import NamedTuple

import numpy as np

MOST = 20


class Confusion(NamedTuple):
    """Pixels of the class `label` that were predicted as `prediction`.

    of_all, of_class, of_largest: percent of all scored pixels, of the label's, and of those of the largest confusion.
    """

    label: str
    prediction: str
    of_all: float
    of_class: float
    of_largest: float

    @property
    def title(self) -> str:
        """By the first names of both, for a chart."""
        return " as ".join(name.split(";")[0].split(",")[0] for name in (self.label, self.prediction))


def largest_confusions(matrix: np.ndarray, classes: list[str]) -> list[Confusion]:
    """The pairs of different classes with the most pixels in common, largest first; matrix (K, K)."""
    wrong = matrix - np.diag(matrix.diagonal())  # (K, K)
    labelled = matrix.sum(1)  # (K,)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    of_all, of_class = wrong / max(labelled.sum(), 1), wrong / np.maximum(labelled, 1)[:, None]  # (K, K) each
    return [
        Confusion(classes[i], classes[j], *(float(100 * x[i, j]) for x in (of_all, of_class, wrong / wrong.max())))
        for i, j in pairs
        if wrong[i, j]
    ]
