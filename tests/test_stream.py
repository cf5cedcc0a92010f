"""Many images on their way through an evaluation: the same labels as one at a time, and no wait on an accelerator."""

import numpy as np
import pytest
import torch
from host_traffic import DEVICE, host_traffic

import proxyclip
from proxyclip.evaluation.metrics import scores
from proxyclip.evaluation.model_run import ModelRun
from proxyclip.evaluation.partial_counts import Counts
from proxyclip.evaluation.prefetch import Ready
from proxyclip.evaluation.tally import DeviceTally, HostTally
from proxyclip.vocabulary import Vocabulary

NAMES = ["sky", "sea", "a boat; ship", "grass"]
SIZES = [(64, 64), (40, 50), (72, 100), (97, 64), (20, 20)]


def images() -> list[np.ndarray]:
    """Of noise, where many pixels are nearly tied; some are smaller than a window."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def test_evaluation_folders_and_single_images_agree():
    model, vocabulary = proxyclip.load("mini", device="cpu"), Vocabulary.parse(NAMES)
    run, readies = ModelRun(model, vocabulary), []
    for index, image in enumerate(images()):
        readies.append(run.stage(Ready(str(index), model.resize(image), np.zeros(image.shape[:2], np.int32))))
    for (ready, labels), image, given in zip(run(iter(readies)), images(), readies, strict=True):
        assert ready is given
        alone = model.segment(image, NAMES, synonyms="best").labels
        assert labels.tobytes() == alone.astype(labels.dtype).tobytes()


def test_counts_of_a_device_are_those_of_the_host():
    random, host, device = np.random.default_rng(0), HostTally(5), DeviceTally(5, torch.device("cpu"))
    of_host, of_device = Counts.empty(5), Counts.empty(5)
    for index in range(6):
        label = random.integers(-2, 4 if index else 0, (9, 7)).astype(np.int32)  # the first has nothing to count
        labels = random.integers(0, 5, (9, 7)) if index % 2 else label.clip(0)
        ready = Ready(str(index), None, label, ground_truth=torch.from_numpy(label.astype(np.int16)))
        host.add(ready, labels)
        device.add(ready, torch.from_numpy(labels))
        if index == 3:
            host.move_to(of_host), device.move_to(of_device)
    for tally, counts in ((host, of_host), (device, of_device)):
        tally.move_to(counts)
        tally.move_to(counts)  # nothing is counted twice
    assert (of_host.matrix == of_device.matrix).all() and of_host.matrix.sum() > 100
    assert list(of_host.images) == list(of_device.images) == list("012345")
    np.testing.assert_allclose([*of_device.images.values()], [*of_host.images.values()], rtol=1e-14)
    assert np.isnan(of_host.images["0"]).all() and scores(of_host.matrix)["mIoU"] > 0


def test_a_label_that_is_no_class_is_an_error_on_any_device():
    label = np.full((2, 3), 5, np.int32)
    ready = Ready("a", None, label, ground_truth=torch.from_numpy(label))
    for tally, labels in (
        (HostTally(5), np.zeros((2, 3), int)),
        (DeviceTally(5, torch.device("cpu")), torch.zeros(2, 3)),
    ):
        with pytest.raises(ValueError, match=r"label value 5 is none of the 5 classes \(0 to 4\)"):
            tally.add(ready, labels)


@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "naclip"])
def test_an_evaluation_on_an_accelerator_never_waits(method):
    """From the upload of an image to its counts: nothing is fetched, and only images and their labels are copied."""
    model = proxyclip.load("mini", method=method, device="cpu").to(DEVICE)
    vocabulary = Vocabulary.parse(NAMES)
    model.encode_classes = lambda vocabulary: text
    text = torch.zeros(5, model.clip.visual.proj.shape[1], device=DEVICE)
    run, tally = ModelRun(model, vocabulary), DeviceTally(4, DEVICE)

    def evaluate(count: int) -> list[str]:
        truth, image = np.zeros((150, 200), np.int32), model.resize(SKY)
        readies = [Ready(str(index), image, truth) for index in range(count)]
        with host_traffic() as found:
            for ready, labels in run(map(run.stage, readies)):
                tally.add(ready, labels)
        return found

    evaluate(2)  # the first image of a size takes its matrices from the host
    found = evaluate(5)
    assert len(tally.images) == 5 and len(found) == 2 * 5 and set(found) == {"aten._to_copy.default"}


SKY = np.zeros((150, 200, 3), np.uint8)
