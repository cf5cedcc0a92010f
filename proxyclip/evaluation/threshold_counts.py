"""Confusion matrices for many thresholds at once, counted from the confidences of one prediction.

Shapes: K classes, T thresholds; class 0 is the background.
"""

import numpy as np

THRESHOLDS = tuple(step / 100 for step in range(100))


class ThresholdCounts:
    """Pixel counts by label, prediction, and the number of thresholds that the confidence reaches.

    thresholds: increasing. `add` any number of images; `matrices` are exactly those of predictions with each threshold.
    """

    def __init__(self, classes: int, thresholds: tuple[float, ...] = THRESHOLDS):
        self.thresholds = np.array(thresholds, np.float32)  # of the type of the confidence it is compared with
        self.counts = np.zeros((len(thresholds) + 1, classes, classes), np.int64)

    def add(self, labels: np.ndarray, confidence: np.ndarray, ground_truth: np.ndarray) -> None:
        """One image, (H, W) each; labels without a threshold, ground truth below 0 is not counted."""
        counted = ground_truth >= 0
        reached = np.searchsorted(self.thresholds, confidence[counted], side="right")  # (N,), N pixels that count
        places = (reached, ground_truth[counted].astype(np.int64), labels[counted].astype(np.int64))
        flat = np.ravel_multi_index(places, self.counts.shape)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def matrices(self) -> np.ndarray:
        """(T, K, K): the confusion matrix with each threshold; pixels below it are predicted as class 0."""
        kept = self.counts[::-1].cumsum(0)[::-1][1:]  # (T, K, K): those that reach the threshold
        below = self.counts.sum(0) - kept  # (T, K, K)
        kept[:, :, 0] += below.sum(2)
        return kept
