"""Counting pixels by ground truth and prediction, on the host or on the device that holds the predictions.

Shapes: K classes, H × W the size of an image's label map, P = H * W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from proxyclip.evaluation.metrics import check_values, confusion, scores
from proxyclip.evaluation.partial_counts import Counts
from proxyclip.evaluation.prefetch import Ready


class HostTally:
    """Counts of some images, in NumPy."""

    def __init__(self, classes: int):
        self.classes, self.matrix, self.images = classes, np.zeros((classes, classes), np.int64), {}

    def add(self, ready: Ready, labels: np.ndarray) -> None:
        """Counts one image with the prediction (H, W); ValueError for labels that are none of the classes."""
        matrix = confusion(labels, ready.label, self.classes)  # (K, K)
        alone = scores(matrix)
        self.matrix += matrix
        self.images[ready.stem] = alone["aAcc"], alone["mIoU_present"]

    def move_to(self, counts: Counts) -> None:
        """Adds what was counted since the last call to `counts`."""
        counts.matrix += self.matrix
        counts.images |= self.images
        self.matrix[:] = 0
        self.images.clear()


class DeviceTally:
    """The same on an accelerator, which `add` does not wait for."""

    def __init__(self, classes: int, device: torch.device):
        self.classes = classes
        self.matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self.images: dict[str, Tensor] = {}  # stem -> (2,): aAcc and mIoU_present in percent

    def add(self, ready: Ready, labels: Tensor) -> None:
        """Counts one image with the prediction (H, W); ValueError for a label that is none of the classes."""
        check_values("label", ready.label.clip(min=0), self.classes)
        ground_truth = ready.ground_truth.to(labels.device, non_blocking=True)  # (H, W)
        matrix = confusion_on(labels, ground_truth, self.classes)
        self.matrix += matrix
        self.images[ready.stem] = image_scores(matrix)

    def move_to(self, counts: Counts) -> None:
        """Adds what was counted since the last call to `counts`; waits for the device."""
        if not self.images:
            return
        counts.matrix += self.matrix.cpu().numpy()
        pairs = torch.stack([*self.images.values()]).tolist()
        counts.images |= {stem: tuple(pair) for stem, pair in zip(self.images, pairs, strict=True)}
        self.matrix.zero_()
        self.images.clear()


def confusion_on(labels: Tensor, ground_truth: Tensor, classes: int) -> Tensor:
    """The (K, K) int64 matrix of one image, rows are ground truth; both (H, W), negative ground truth is not counted.

    Not by `bincount`, which waits for an accelerator to learn the largest value.
    """
    cells = ground_truth.long() * classes + labels.long()  # (H, W)
    cells = torch.where(ground_truth < 0, classes**2, cells).flatten()  # (P,): the last cell is not counted
    counts = torch.zeros(classes**2 + 1, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(0, cells, torch.ones_like(cells))
    return counts[:-1].unflatten(0, (classes, classes))  # (K, K)


def image_scores(matrix: Tensor) -> Tensor:
    """aAcc and mIoU_present in percent, as in `metrics.scores`, from a matrix (K, K) -> (2,) float64."""
    matrix = matrix.double()
    hit, labelled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)  # (K,) each
    present = labelled > 0  # (K,)
    iou = torch.where(present, hit / (labelled + predicted - hit), 0.0)  # (K,)
    return 100 * torch.stack([hit.sum() / labelled.sum(), iou.sum() / present.sum()])
