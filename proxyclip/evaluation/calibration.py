"""The threshold, and on request the logit scale, with the highest mIoU on a few labelled images.

Shapes: K classes, of which class 0 is the background, T thresholds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, per_class, scores
from proxyclip.segmentor import Sample

THRESHOLDS = tuple(step / 100 for step in range(100))


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
    thresholds = torch.tensor(THRESHOLDS, device=model.device)  # (T,) float32, as the confidence
    counts = [0] * len(rules)
    stream = (
        Sample(model.pin(model.resize(image)), image.shape[:2], stem, ground_truth)
        for stem, image, ground_truth in samples
    )
    for sample, image, window_scores in model.score_each(stream, vocabulary):
        for index, rule in enumerate(rules):
            labels, confidence, _ = model.decide(window_scores, image, sample, vocabulary, rule=rule)
            counts[index] += count_thresholds(labels, confidence, sample.item, len(vocabulary.classes), thresholds)
    if not counts[0].any():
        raise InputError("the labels contain no pixel that is scored")
    return [curve(rule.scale, matrices_of(each.cpu().numpy())) for rule, each in zip(rules, counts, strict=True)]


def count_thresholds(labels: Tensor, confidence: Tensor, label, classes: int, thresholds: Tensor) -> Tensor:
    """Pixels of one image by label, number of thresholds that the confidence reaches, and prediction: (K, T + 1, K).

    labels, confidence: (H, W) without a threshold. label: the ground truth (H, W). thresholds: (T,), increasing.
    """
    reached = torch.bucketize(confidence, thresholds, right=True)  # (H, W), 0 to T
    columns = (len(thresholds) + 1) * classes
    return confusion(reached * classes + labels, label, classes, columns=columns).unflatten(1, (-1, classes))


def matrices_of(counts: np.ndarray) -> np.ndarray:
    """(K, T + 1, K) of `count_thresholds` -> (T, K, K): the confusion matrix with each threshold; pixels below it are
    predicted as class 0."""
    counts = counts.swapaxes(0, 1)  # (T + 1, K, K)
    kept = counts[::-1].cumsum(0)[::-1][1:]  # (T, K, K): those that reach the threshold
    kept[:, :, 0] += (counts.sum(0) - kept).sum(2)
    return kept


def curve(scale: float, matrices: np.ndarray) -> Curve:
    """From the confusion matrix with each threshold, (T, K, K)."""
    each = [scores(matrix) for matrix in matrices]
    return Curve(
        scale,
        thresholds=np.array(THRESHOLDS, np.float32),
        miou=np.array([one["mIoU"] for one in each]),
        background=np.array([per_class(matrix)[0][0] for matrix in matrices]),
        accuracy=np.array([one["aAcc"] for one in each]),
    )
