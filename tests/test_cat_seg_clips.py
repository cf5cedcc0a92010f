"""CAT-Seg on all CLIPs that the paper uses: widths and depths come from the CLIP, without weights."""

import pytest

from heads.training.plan import plan_head

LARGE = {"clip_size": 336, "guidance_blocks": (7, 15)}


@pytest.mark.parametrize(("clip", "options", "width", "joint"), [
    ("ViT-B-16:openai", {}, 768, 512),
    ("ViT-L-14-336:openai", LARGE, 1024, 768),
    ("ViT-H-14:laion2b_s32b_b79k", LARGE, 1280, 1024),
    ("ViT-bigG-14:laion2b_s39b_b160k", LARGE, 1664, 1280),
])  # fmt: skip
def test_published_clips(clip, options, width, joint):
    head = plan_head("cat_seg", options, clip, ("sky", "car"), ("sky", "car"), "cpu").skeleton()
    assert head.guidance_lifts[0].weight.shape[:2] == (width, 256)
    assert head.aggregator.text_guidance.in_features == joint
    assert all(layer.mask.shape == (1, 16, 144, 144) for layer in head.aggregator.layers)  # 2 x 2 windows, 4 heads
    blocks = len(head.clip.visual.transformer.resblocks) + len(head.clip.model.transformer.resblocks)
    assert len(head.tuned) == blocks
