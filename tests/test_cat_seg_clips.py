"""CAT-Seg on all CLIPs that the paper uses, without weights; and how it prepares images."""

import numpy as np
import pytest
import tiny_cat_seg
import torch
from PIL import Image

from heads.training.plan import plan_head, skeleton

LARGE = {"clip_size": 336, "guidance_blocks": (7, 15)}


@pytest.mark.parametrize(("clip", "options", "width", "joint"), [
    ("ViT-B-16:openai", {}, 768, 512),
    ("ViT-L-14-336:openai", LARGE, 1024, 768),
    ("ViT-H-14:laion2b_s32b_b79k", LARGE, 1280, 1024),
    ("ViT-bigG-14:laion2b_s39b_b160k", LARGE, 1664, 1280),
])  # fmt: skip
def test_published_clips(clip, options, width, joint):
    head = skeleton(plan_head("cat_seg", options, clip, ("sky", "car"), ("sky", "car"), "cpu"))
    assert head.guidance_lifts[0].weight.shape[:2] == (width, 256)
    assert head.aggregator.text_guidance.in_features == joint
    assert all(layer.mask.shape == (1, 16, 144, 144) for layer in head.aggregator.layers)  # 2 x 2 windows, 4 heads
    blocks = len(head.clip.visual.transformer.resblocks) + len(head.clip.model.transformer.resblocks)
    assert len(head.tuned) == blocks


@pytest.mark.parametrize(("size", "expected"), [((300, 400), (40, 53)), ((20, 2000), (26, 2560))])
def test_images_are_prepared_as_published(size, expected):
    """The short side as asked for, the long side at most 2560, by Pillow with antialiasing."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(image).resize(expected[::-1], Image.Resampling.BILINEAR))
    found = tiny_cat_seg.head(short_side=40).prepare(image)
    assert torch.equal((found * 255).round().byte(), torch.from_numpy(wanted.copy()).permute(2, 0, 1))
