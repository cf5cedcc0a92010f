"""A forward pass on an accelerator neither copies from the host nor waits for the device, once its sizes are known."""

import pytest
import tiny_clip
import torch
from host_traffic import DEVICE, host_traffic
from tiny_vfm import FAMILIES, images, tiny

import proxyclip
from proxyclip import fused
from proxyclip.label_map import label_map
from proxyclip.label_rule import LabelRule
from proxyclip.methods._proxy_attention import proxy_attend
from proxyclip.sliding import SlidingWindows
from proxyclip.stitching import View, WindowScores


class Launches:
    """In place of a Triton kernel: notes the grids it would be launched with."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        return lambda *given, **constants: self.grids.append(grid)


@pytest.fixture
def kernels(monkeypatch) -> dict[str, Launches]:
    """Everything but the Triton kernels themselves runs as on a GPU."""
    pytest.importorskip("triton", reason="there is no Triton for this system")
    from proxyclip.fused import decision, proxy_weights

    monkeypatch.setattr(fused, "available", lambda device: True)
    made = {"weigh_row": Launches(), "decide_block": Launches()}
    monkeypatch.setattr(proxy_weights, "weigh_row", made["weigh_row"])
    monkeypatch.setattr(decision, "decide_block", made["decide_block"])
    return made


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
    label_map(scores, (375, 500), rule, owners)  # the first call of a size takes its stitching matrices from the host
    with host_traffic() as found:
        labels, confidence, maps = label_map(scores, (375, 500), rule, owners, subtract, keep)
    assert found == [] and {labels.device, confidence.device, *(kept.device for kept in maps.values())} == {DEVICE}


def test_proxy_attention_with_the_kernel(kernels):
    features, values = torch.zeros(3, 8, 5, 6, device=DEVICE), torch.zeros(3, 30, 4, device=DEVICE)
    with host_traffic() as found:
        proxy_attend(features, values, 1.2, 3.0)
    assert found == [] and kernels["weigh_row"].grids == [(30, 3)]


def test_label_maps_with_the_kernel(kernels):
    scores = WindowScores((View(torch.zeros(84, 300, 84, device=DEVICE), SlidingWindows(336, 112), (448, 448)),))
    owners = torch.zeros(300, dtype=torch.uint8, device=DEVICE)
    label_map(scores, (375, 500), LabelRule(), owners)
    with host_traffic() as found:
        labels, confidence, _ = label_map(scores, (375, 500), LabelRule(threshold=0.3), owners)
    assert found == [] and {labels.device, confidence.device} == {DEVICE}
    assert kernels["decide_block"].grids == [(12, 8)] * 2  # one launch an image: blocks of 32 × 64 pixels


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
