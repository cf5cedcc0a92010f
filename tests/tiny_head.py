"""Heads on tiny CLIPs, with random weights that all matter."""

import tiny_clip
import torch

from heads import cascade_clip, otseg, zegclip
from heads.head import TrainableHead
from proxyclip.backbones.checkpoints import fixed_seed

HEADS = {"zegclip": zegclip, "otseg": otseg, "cascade_clip": cascade_clip}
CLASSES, SEEN = ("sky", "car", "tree", "cow"), ("sky", "car")
OPTIONS = {
    "image_size": 32,
    "short_side": 0,
    "crop": 32,
    "stride": 16,
    "prompts": 3,
    "decoder_heads": 4,
    "templates": tiny_clip.TEMPLATES,
}


def head(name: str, clip=None, classes=CLASSES, seen=SEEN, **options) -> TrainableHead:
    """Ready for inference; the same weights every time. The CLIP has 4 blocks, and patches of 8 pixels."""
    module = HEADS[name]
    if module is cascade_clip:
        options = {"levels": (1, 2), "group_size": 2} | options
    with fixed_seed():
        found = module.Head(clip or four_blocks(), module.Options(**OPTIONS | options), classes, seen)
        with torch.no_grad():
            for parameter in found.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape)
    return found.eval()


def four_blocks():
    """As a loader returns it: not frozen."""
    return tiny_clip.clip(vision={"layers": 4}).requires_grad_()


def images(batch: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) RGB in [0, 1]."""
    drawn = [tiny_clip.photograph(height, width, seed + index) for index in range(batch)]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in drawn])
