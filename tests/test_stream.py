"""Many images on their way through an evaluation: the same labels as one at a time, and no wait on an accelerator."""

import numpy as np
import pytest
import torch
from host_traffic import DEVICE, host_traffic
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import proxyclip
from proxyclip.evaluation.calibration import count_thresholds
from proxyclip.evaluation.loop import LabelledImage, predict_labels
from proxyclip.evaluation.metrics import confusion
from proxyclip.vocabulary import Vocabulary

NAMES = ["sky", "sea", "a boat; ship", "grass"]
SIZES = [(64, 64), (40, 50), (72, 100), (97, 64), (20, 20)]


def images() -> list[np.ndarray]:
    """Of noise, where many pixels are nearly tied; some are smaller than a window."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def test_evaluation_folders_and_single_images_agree():
    model, vocabulary = proxyclip.load("mini", device="cpu"), Vocabulary.parse(NAMES)
    given = [
        LabelledImage(str(index), torch.from_numpy(model.resize(image)), torch.zeros(image.shape[:2]))
        for index, image in enumerate(images())
    ]
    predictions = predict_labels(iter(given), model=model, vocabulary=vocabulary)
    for (returned, labels), image, expected in zip(predictions, images(), given, strict=True):
        assert returned is expected
        alone = model.segment(image, NAMES, synonyms="best").labels
        assert np.array_equal(labels.numpy(), alone)


class WithoutFloat64(TorchFunctionMode):
    """Tensors of 64-bit floats on a device are a TypeError, as on an Apple GPU."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and (leaf.device, leaf.dtype) == (self.device, torch.float64):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
        return result


@pytest.mark.parametrize("use", [lambda x: x.double(), lambda x: x.sum(dtype=torch.float64), lambda x: x.to(float)])
def test_float64_is_noticed(use):
    with WithoutFloat64(DEVICE), pytest.raises(TypeError):
        use(torch.ones(3, device=DEVICE))


@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "naclip"])
def test_an_evaluation_on_an_accelerator_needs_no_float64_and_never_waits(method):
    """From the upload of an image to its counts: nothing is fetched, and only images and their labels are copied."""
    model = proxyclip.load("mini", method=method, device="cpu").to(DEVICE)
    vocabulary = Vocabulary.parse(NAMES)
    text = torch.zeros(5, model.clip.visual.proj.shape[1], device=DEVICE)
    model.encode_classes = lambda vocabulary: text
    sky, truth = torch.from_numpy(model.resize(SKY)), torch.zeros(SKY.shape[:2], dtype=torch.int32)

    def evaluate(count: int) -> list[str]:
        given = [LabelledImage(str(index), sky, truth) for index in range(count)]
        with host_traffic() as found, WithoutFloat64(DEVICE):
            matrices = [
                confusion(labels, image.label, classes=4)
                for image, labels in predict_labels(given, model=model, vocabulary=vocabulary)
            ]
        assert {(matrix.device, matrix.dtype, matrix.shape) for matrix in matrices} == {(DEVICE, torch.int64, (4, 4))}
        return found

    evaluate(2)  # the first image of a size takes its matrices from the host
    assert evaluate(5) == ["aten._to_copy.default"] * 10


def test_counts_need_no_float64():
    """With values: for scores, and for thresholds."""
    host, random = torch.device("cpu"), np.random.default_rng(0)
    labels, truth = (torch.from_numpy(random.integers(low, 4, (9, 13))) for low in (0, -1))
    confidence, thresholds = torch.rand(9, 13), torch.tensor([0.25, 0.5])
    with WithoutFloat64(host):
        matrix = confusion(labels, truth, classes=4)
        counts = count_thresholds(labels, confidence, truth, classes=4, thresholds=thresholds)
    assert matrix.sum() == (truth >= 0).sum() and torch.equal(counts.sum(1), matrix)


SKY = np.zeros((150, 200, 3), np.uint8)
