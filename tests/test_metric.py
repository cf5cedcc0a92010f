"""The metric against cases computed by hand and an independent implementation; the published case is in golden/."""

import contextlib
import math

import numpy as np
import pytest
import torch

from proxyclip.backbones.checkpoints import import_torchvision
from proxyclip.evaluation.metrics import confusion, scores, seen_unseen

# labels 0 0 0 1 1 2 void, predictions 0 0 1 1 3 2 0
LABEL = np.array([[0, 0, 0, 1, 1, 2, 255]])
PREDICTION = np.array([[0, 0, 1, 1, 3, 2, 0]])


def matrix_of(prediction, label, classes: int, **options) -> np.ndarray:
    return confusion(np.asarray(prediction), np.asarray(label), classes, **options).numpy()


def counted() -> np.ndarray:
    return matrix_of(PREDICTION, LABEL, 5, void=255)


def test_scores_computed_by_hand():
    result = scores(counted())
    assert result["per_class"]["IoU"] == pytest.approx([200 / 3, 100 / 3, 100, 0, None])
    assert result["per_class"]["Acc"] == pytest.approx([200 / 3, 50, 100, None, None])
    assert result["per_class"]["labelled"] == [3, 2, 1, 0, 0]
    assert result["per_class"]["predicted"] == [2, 2, 1, 1, 0]
    assert result["aAcc"] == pytest.approx(400 / 6)
    assert result["mIoU"] == pytest.approx(200 / 4)  # class 3 is predicted, never labelled: counts as 0
    assert result["mIoU_present"] == pytest.approx(200 / 3)
    assert result["mAcc"] == result["mAcc_present"] == pytest.approx((200 / 3 + 50 + 100) / 3)
    assert result["fwIoU"] == pytest.approx(3 / 6 * 200 / 3 + 2 / 6 * 100 / 3 + 1 / 6 * 100)
    assert result["never_predicted"] == 0 and result["zero_IoU"] == 0


def test_never_predicted_and_zero_iou_are_shares_of_the_labelled_classes():
    matrix = matrix_of([1, 1, 0], [0, 1, 2], 4)  # class 0 is mistaken, class 2 never predicted, class 3 absent
    result = scores(matrix)
    assert result["never_predicted"] == pytest.approx(100 / 3)
    assert result["zero_IoU"] == pytest.approx(200 / 3)


def test_zero_shot_numbers_come_from_the_same_matrix():
    result = seen_unseen(counted(), [1, 3])
    assert result["pAcc"] == scores(counted())["aAcc"]
    seen, unseen = (200 / 3 + 100) / 2, (100 / 3 + 0) / 2
    assert result["mIoU(S)"] == pytest.approx(seen)
    assert result["mIoU(U)"] == pytest.approx(unseen)
    assert result["hIoU"] == pytest.approx(2 * seen * unseen / (seen + unseen))


def test_harmonic_mean_is_zero_when_nothing_is_right():
    assert seen_unseen(matrix_of([1, 0], [0, 1], 2), [1])["hIoU"] == 0


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_any_integer_type_and_torch_give_the_same_matrix(dtype):
    prediction, label = PREDICTION.astype(dtype), LABEL.astype(dtype)
    for values in ((prediction, label), (torch.from_numpy(prediction), torch.from_numpy(label)), (prediction, LABEL)):
        assert torch.equal(confusion(*values, 5, void=255), torch.from_numpy(counted()))
    unsigned = PREDICTION.astype(np.uint16), LABEL.astype(np.uint16)  # of files with more than 255 classes
    assert (matrix_of(*unsigned, 5, void=255) == counted()).all()


def test_more_values_than_classes_may_be_predicted():
    assert matrix_of([4, 2, 0], [1, 0, 1], 2, columns=5).tolist() == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]
    with pytest.raises(ValueError, match="prediction value 5 is none of the 5 classes"):
        confusion(np.array([5]), np.array([0]), 2, columns=5)


def test_negative_labels_are_not_counted():
    assert confusion(np.array([0, 1, 1]), np.array([-1, 1, -7]), 2).tolist() == [[0, 0], [0, 1]]


def test_what_cannot_be_counted_is_named():
    with pytest.raises(ValueError, match=r"prediction is \(2,\), the label \(3,\)"):
        confusion(np.zeros(2, int), np.zeros(3, int), 2)
    with pytest.raises(ValueError, match="label value 7 is none of the 5 classes"):
        confusion(np.array([0, 0]), np.array([0, 7]), 5)
    with pytest.raises(ValueError, match="prediction value 255 is none"):
        confusion(np.array([255, 0], np.uint8), np.array([0, 0]), 5)


def test_a_prediction_on_void_may_be_anything():
    assert confusion(np.array([99, 0]), np.array([255, 0]), 1, void=255).tolist() == [[1]]


def test_no_overflow_at_five_thousand_images_of_two_megapixels():
    """10^10 pixels of one class: beyond 2^31 for every area and beyond 2^24 for the float32 of some metrics."""
    image = matrix_of(np.zeros((1000, 2000), np.uint8), np.zeros((1000, 2000), np.uint8), 171)
    matrix = 5000 * image
    matrix += matrix_of([1, 0], [0, 1], 171)  # one pixel more each way is still seen
    assert matrix.dtype == np.int64
    assert matrix[0, 0] == 10**10 and matrix.sum() == 10**10 + 2
    assert scores(matrix)["per_class"]["IoU"][0] == 100 * 10**10 / (10**10 + 2)
    assert scores(np.array([[2**62, 0], [0, 0]]))["aAcc"] == 100


def test_empty_matrix_gives_nan_and_no_warning(recwarn):
    result = scores(np.zeros((3, 3), np.int64))
    assert math.isnan(result["mIoU"]) and math.isnan(result["aAcc"])
    assert result["per_class"]["IoU"] == [None] * 3
    assert not recwarn.list


def test_agrees_with_torchmetrics():
    """An independent implementation, where it is installed."""
    with contextlib.suppress(ImportError):  # torchmetrics imports torchvision, too
        import_torchvision()
    torchmetrics = pytest.importorskip("torchmetrics")
    random = np.random.default_rng(0)
    label, prediction = random.integers(0, 12, (2, 40, 50))
    theirs = torchmetrics.ConfusionMatrix(task="multiclass", num_classes=12)
    expected = theirs(torch.from_numpy(prediction), torch.from_numpy(label)).numpy()
    matrix = matrix_of(prediction, label, 12)
    assert (matrix == expected).all()
    jaccard = torchmetrics.JaccardIndex(task="multiclass", num_classes=12, average="none")
    iou = jaccard(torch.from_numpy(prediction), torch.from_numpy(label)).numpy()
    assert scores(matrix)["per_class"]["IoU"] == pytest.approx((100 * iou).tolist(), abs=1e-4)
