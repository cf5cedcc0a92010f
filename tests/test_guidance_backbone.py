"""Guidance for CAT-Seg from a separate backbone, against timm's own classification model of the same weights."""

import pytest
import tiny_cat_seg
import torch

from heads.cat_seg_backbone import SOURCES, GuidanceBackbone
from proxyclip.backbones.checkpoints import import_library
from proxyclip.errors import NotFound

SIDE = 12  # patches: the least for which Swin's windows fit


@pytest.mark.parametrize("kind", SOURCES)
def test_features_are_those_of_the_whole_model(kind):
    """Up to the last stage that is used, `forward_intermediates` of the unpruned model gives the same."""
    torch.manual_seed(0)
    backbone = GuidanceBackbone(kind, SIDE).eval()
    whole = (
        import_library("timm")
        .create_model(SOURCES[kind].name, **({"img_size": 16 * SIDE} if kind == "swin_base" else {}))
        .eval()
    )
    named = {name.replace("layers_", "layers."): value for name, value in backbone.features.state_dict().items()}
    assert not whole.load_state_dict(named, strict=False).unexpected_keys
    images = torch.rand(1, 3, 16 * SIDE, 16 * SIDE)
    with torch.no_grad():
        maps = backbone(images)
        normed = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        expected = whole.forward_intermediates(normed, indices=list(SOURCES[kind].stages), intermediates_only=True)
    assert [tuple(found.shape[2:]) for found in maps] == [(SIDE * factor,) * 2 for factor in (1, 2, 4)]
    assert tuple(found.shape[1] for found in maps) == backbone.channels
    for found, wanted in zip(maps, reversed(expected), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_head_uses_it_and_trains_it_without_statistics():
    head = tiny_cat_seg.head(guidance="resnet101", finetune="frozen").train()
    assert head.method == "CAT-Seg v1 (R101)" and head.guidance_lifts is None
    before = {name: value.clone() for name, value in head.state_dict().items() if "running" in name}
    text = torch.nn.functional.normalize(torch.randn(5, 1, 16), dim=-1)
    (logits,) = head(torch.rand(2, 3, 32, 32), text).values()
    logits.square().sum().backward()
    assert logits.shape == (2, 5, 16, 16) and head.guidance_backbone.features.conv1.weight.grad.abs().sum() > 0
    assert before and all(torch.equal(value, head.state_dict()[name]) for name, value in before.items())


def test_without_a_network_the_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match=r"timm's resnet101.tv_in1k .* copy that cache here"):
        GuidanceBackbone("resnet101", 2).load_published()
