"""How scores become labels: the settings, and the rules about whole label maps.

Shapes: Q queries, K classes, H × W the label map.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.options import fits


@dataclass(frozen=True)
class LabelRule:
    """How scores become labels.

    scale: factor applied to the scores first (logit scale). window_sigmoid: whether a sigmoid is applied to each window
    at its own resolution, before windows are averaged. subtract: pairs of class name and value, subtracted from the
    scores of the class after that. activation: "softmax" over all queries, or "none". threshold: pixels whose winning
    score (a probability after a softmax) is below it get label 0. area: before that, classes get no pixel if their
    share of all pixels with labels other than 0 is at most this; those pixels get the next best class (0: no such
    rule; SCLIP, arXiv:2312.01597, in its published code).
    """

    scale: float = 1.0
    window_sigmoid: bool = False
    subtract: tuple[tuple[str, float], ...] = ()
    activation: Literal["softmax", "none"] = "softmax"
    threshold: float = 0.0
    area: float = 0.0

    def __post_init__(self):
        if self.activation not in ("softmax", "none"):
            raise InputError(f'activation is {self.activation!r}; choose "softmax" or "none"')
        if not 0 <= self.area < 1:
            raise InputError(f"area is {self.area!r}; choose a share of pixels, at least 0 and below 1")

    def with_threshold(self, threshold: float | None) -> "LabelRule":
        """The same rule with another threshold, if one is given; InputError unless it is a probability."""
        if threshold is None:
            return self
        if not fits(threshold, float) or not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}; it must be a probability between 0 and 1")
        return replace(self, threshold=float(threshold))

    @property
    def needs_confidence(self) -> bool:
        """Whether any winning score may be below the threshold; probabilities are not negative."""
        return self.threshold > 0 or self.activation == "none"

    def settings(self) -> dict:
        """Everything but the threshold, which each call may set; ready for JSON."""
        return {
            "logit_scale": self.scale,
            "window_sigmoid": self.window_sigmoid,
            "subtract": dict(self.subtract),
            "activation": self.activation,
            **({"area": self.area} if self.area else {}),
        }


class LabelMap(NamedTuple):
    """labels (H, W), in the type of the class indices that were given; confidence (H, W) float32, the winning score,
    None unless asked for; by class index the score maps (H, W) asked for."""

    labels: Tensor
    confidence: Tensor | None
    class_scores: dict[int, Tensor]


def ruled(
    decide: Callable[[Tensor | None], LabelMap], rule: LabelRule, class_of_query: Tensor, confidence: bool = True
) -> LabelMap:
    """A label map after the area rule and the threshold, which is applied once, at the end.

    decide: the best of all queries but the excluded ones, (Q,) bool, None for none. class_of_query: (Q,) integers.
    confidence: whether the result has the winning scores.
    """
    found = decide(None)
    if rule.area and (small := small_classes(found.labels, rule.area, class_of_query)).any():
        found = decide(small[class_of_query.long()])
    if rule.needs_confidence:
        found.labels.masked_fill_(found.confidence < rule.threshold, 0)
    return found if confidence else found._replace(confidence=None)


def small_classes(labels: Tensor, area: float, class_of_query: Tensor) -> Tensor:
    """(K,) bool: which classes other than 0 have at most that share of the pixels (H, W) with labels other than 0."""
    pixels = labels.flatten().bincount(minlength=int(class_of_query.max()) + 1)  # (K,)
    small = pixels <= area * pixels[1:].sum()  # (K,)
    small[0] = False
    return small
