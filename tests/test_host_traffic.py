"""A forward pass on an accelerator neither copies from the host nor waits for the device, once its sizes are known."""

import pytest
import tiny_clip
import torch
from host_traffic import DEVICE, host_traffic
from tiny_vfm import FAMILIES, images, tiny

import proxyclip
from proxyclip.labels import LabelRule, decide_labels
from proxyclip.windows import SlidingWindows, View, WindowScores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "clip"])
def test_window_scores(method, dtype):
    model = proxyclip.load("mini", method=method, device="cpu").set_precision(dtype).to(DEVICE)
    crops = images(2, 72, 56).to(DEVICE)
    text = torch.zeros(3, model.clip.visual.proj.shape[1], device=DEVICE)
    model.window_scores(crops, text)  # the first call of a size takes its sampling matrices from the host
    with host_traffic() as found:
        scores = model.window_scores(crops, text)
    assert found == []
    assert scores.device == DEVICE and scores.dtype == torch.float32 and scores.shape[:2] == (2, 3)


@pytest.mark.parametrize("rule", [LabelRule(), LabelRule(threshold=0.3), LabelRule(activation="none")], ids=str)
@pytest.mark.parametrize("keep", [(), (0, 2)], ids=str)
def test_label_maps(rule, keep):
    scores = WindowScores((View(torch.zeros(84, 300, 84, device=DEVICE), SlidingWindows(336, 112), (448, 448)),))
    owners, subtract = torch.zeros(300, dtype=torch.uint8, device=DEVICE), torch.zeros(300, device=DEVICE)
    decide_labels(
        scores, (375, 500), rule, owners
    )  # the first call of a size takes its stitching matrices from the host
    with host_traffic() as found:
        labels, confidence, maps = decide_labels(scores, (375, 500), rule, owners, subtract=subtract, keep=keep)
    assert found == [] and {labels.device, confidence.device, *(kept.device for kept in maps.values())} == {DEVICE}


@pytest.mark.parametrize("name", FAMILIES)
def test_vfms(name):
    # timm builds the grid of DINOv3's rotary positions on the CPU, one small copy a forward pass.
    expected = ["aten._to_copy.default"] if name == "dinov3" else []
    model, given = tiny(name).to(DEVICE), images(2, 90, 122).to(DEVICE)
    model(given)
    with host_traffic() as found:
        features = model(given)
    assert found == expected
    assert features.device == DEVICE


def test_the_first_call_of_a_size_copies_a_matrix_an_axis():
    clip, given = tiny_clip.clip().to(DEVICE), images(1, 88, 104).to(DEVICE)
    with host_traffic() as found:
        clip.embed(given)
        assert found == ["aten._to_copy.default"] * 2


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: x.cpu(),
    ],
)
def test_what_waits_is_noticed(wait):
    with host_traffic(), pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.zeros(3, 3, device=DEVICE))


@pytest.mark.parametrize(
    "copy",
    [
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: x.new_tensor(1.0),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3, 3)),
        lambda x: x[:, [0, 1]],
        lambda x: x[torch.ones(3, dtype=torch.int64)],
    ],
)
def test_what_copies_is_noticed(copy):
    given = torch.zeros(3, 3, device=DEVICE)
    with host_traffic() as found:
        copy(given)
    assert found
