"""Segmentation metrics: one confusion matrix over all images, and the scores derived from it.

Shapes: K classes; the matrix is (K, K) int64, rows are labels and columns are predictions.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def confusion(prediction, label, classes: int, *, void: int = -1, columns: int | None = None) -> "Tensor":
    """Pixel counts by label and prediction, (K, columns) int64, on the device of the prediction; nothing waits for it.

    Matrices of several images add up; 32 bits would not hold the 10^10 pixels of 5000 images of 2 megapixels.
    prediction, label: integer maps of the same shape, arrays or tensors. Pixels labelled `void` or below zero are not
    counted. columns: how many values a prediction can have (default: K). Raises ValueError if the shapes differ or a
    value in the host's memory is not a class.
    """
    import torch  # here: reports, which need `scores` alone, do not wait for it

    prediction, label = (
        values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values).astype(np.int64))
        for values in (prediction, label)
    )
    if prediction.shape != label.shape:
        sizes = tuple(prediction.shape), tuple(label.shape)
        raise ValueError(f"the prediction is {sizes[0]}, the label {sizes[1]}: their sizes must agree")
    columns, device = columns or classes, prediction.device
    if label.device.type == "cpu":
        counted = (label >= 0) & (label != void)
        check_values("label", label[counted], classes)
        if device.type == "cpu":
            check_values("prediction", prediction[counted], columns)
    label = label.to(device, non_blocking=True).long()
    cells = label * columns + prediction.long()
    cells = torch.where((label >= 0) & (label != void), cells, classes * columns).flatten()  # the last one: not counted
    counts = torch.zeros(classes * columns + 1, dtype=torch.int64, device=device)
    counts.scatter_add_(0, cells, torch.ones_like(cells))  # `bincount` would wait, to learn the largest value
    return counts[:-1].unflatten(0, (classes, columns))


def check_values(name: str, values: "Tensor", classes: int) -> None:
    """ValueError for a value that is none of the classes."""
    smallest, largest = map(int, values.aminmax()) if values.numel() else (0, 0)
    if smallest < 0 or largest >= classes:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"{name} value {wrong} is none of the {classes} classes (0 to {classes - 1})")


def per_class(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and accuracy of each class in percent, (K,) each; nan where nothing was to be found.

    IoU is nan for a class that is neither labelled nor predicted, accuracy (recall) for one that is not labelled.
    """
    hit, labelled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)  # (K,) each
    return percent(hit, labelled + predicted - hit), percent(hit, labelled)


def scores(matrix: np.ndarray) -> dict:
    """aAcc, mIoU, mAcc, fwIoU, the second pair of averages, and per-class values, all in percent.

    Two averages, because published numbers use either:
    - mIoU and mAcc, as in mmsegmentation: over classes with a defined value. A class that is predicted but never
      labelled has IoU 0 and counts.
    - mIoU_present, as in detectron2: over classes that are labelled somewhere. (For accuracy the two are equal.)

    `per_class` has lists IoU and Acc (None where undefined) and the pixel counts labelled and predicted.
    `never_predicted` and `zero_IoU` are the shares of labelled classes that are predicted nowhere and that have IoU 0.
    All are nan for an empty matrix.
    """
    iou, accuracy = per_class(matrix)
    labelled, predicted = matrix.sum(1), matrix.sum(0)  # (K,) each
    present = labelled > 0
    return {
        "aAcc": share(matrix.trace(), matrix.sum()),
        "mIoU": mean(iou),
        "mAcc": mean(accuracy),
        "mIoU_present": mean(iou[present]),
        "mAcc_present": mean(accuracy[present]),
        "fwIoU": share((iou[present] / 100 * labelled[present]).sum(), labelled.sum()),
        "never_predicted": share((predicted[present] == 0).sum(), present.sum()),
        "zero_IoU": share((iou[present] == 0).sum(), present.sum()),
        "per_class": {
            "IoU": or_none(iou),
            "Acc": or_none(accuracy),
            "labelled": labelled.tolist(),
            "predicted": predicted.tolist(),
        },
    }


def seen_unseen(matrix: np.ndarray, unseen) -> dict:
    """Generalised zero-shot scores in percent: pAcc, mIoU(S), mIoU(U), hIoU (Xian et al., 2019).

    unseen: indices of the classes that training left out; all others are seen. All classes compete with each other: the
    split only determines over which classes the IoUs of the one matrix are averaged. hIoU is the harmonic mean of both.
    """
    iou, _ = per_class(matrix)
    is_unseen = np.zeros(len(matrix), bool)
    is_unseen[list(unseen)] = True
    seen_mean, unseen_mean = mean(iou[~is_unseen]), mean(iou[is_unseen])
    both = seen_mean + unseen_mean
    return {
        "pAcc": share(matrix.trace(), matrix.sum()),
        "mIoU(S)": seen_mean,
        "mIoU(U)": unseen_mean,
        "hIoU": 2 * seen_mean * unseen_mean / both if both else 0.0,
    }


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 * part / whole, nan where the whole is zero; (K,) -> (K,) float64."""
    return np.divide(100.0 * part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def share(part, whole) -> float:
    """100 * part / whole as a float; nan where the whole is zero."""
    return 100.0 * float(part) / float(whole) if whole else float("nan")


def mean(values: np.ndarray) -> float:
    """Average of those that are not nan; nan where there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def or_none(values: np.ndarray) -> list:
    """A list for JSON, which has no nan."""
    return [None if np.isnan(value) else float(value) for value in values]
