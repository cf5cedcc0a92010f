"""The threshold, and on request the logit scale, with the highest mIoU on a few labelled images."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import per_class, scores
from proxyclip.evaluation.threshold_counts import ThresholdCounts
from proxyclip.segmentor import Sample


@dataclass(frozen=True)
class Curve:
    """Scores in percent for each threshold, (T,) each. scale: the logit scale. background: IoU of class 0."""

    scale: float
    thresholds: np.ndarray
    miou: np.ndarray
    background: np.ndarray
    accuracy: np.ndarray

    @property
    def best(self) -> int:
        """The index of the highest mIoU, the lowest threshold of equals."""
        return int(self.miou.argmax())


@torch.no_grad()
def curves(model, samples: Iterable, vocabulary, scales: tuple[float, ...] = ()) -> list[Curve]:
    """The curve of each logit scale (default: the model's own), from one run of the model for each image.

    samples: stem, image (H, W, 3) uint8 and ground truth (H, W), with the background as class 0 and negative values
    where nothing is scored. vocabulary: with a background as class 0. Raises InputError for scales where the model has
    no softmax, and where no pixel is scored.
    """
    if scales and model.label_rule.activation != "softmax":
        raise InputError(f"{model.method} has no logit scale: its scores are compared with the threshold as they are")
    rule = replace(model.label_rule, threshold=0.0, synonyms="sum")  # as `segment` decides
    rules = [replace(rule, scale=scale) for scale in scales or (rule.scale,)]
    counts = [ThresholdCounts(len(vocabulary.classes)) for _ in rules]
    stream = (
        Sample(model.pin(model.resize(image)), image.shape[:2], stem, ground_truth)
        for stem, image, ground_truth in samples
    )
    for sample, image, found in model.score_each(stream, vocabulary):
        for rule, counted in zip(rules, counts, strict=True):
            labels, confidence, _ = model.decide(found, image, sample, vocabulary, rule=rule)
            counted.add(labels.cpu().numpy(), confidence.cpu().numpy(), sample.item)
    if not counts[0].counts.any():
        raise InputError("the labels contain no pixel that is scored")
    return [curve(rule.scale, counted) for rule, counted in zip(rules, counts, strict=True)]


def curve(scale: float, counts: ThresholdCounts) -> Curve:
    found = [scores(matrix) for matrix in counts.matrices()]
    background = [per_class(matrix)[0][0] for matrix in counts.matrices()]
    columns = ([one["mIoU"] for one in found], background, [one["aAcc"] for one in found])
    return Curve(scale, counts.thresholds, *map(np.array, columns))
