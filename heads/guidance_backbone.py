"""Guidance for CAT-Seg from a separate backbone: the first version of the paper, and mmsegmentation's project.

Cho et al., CAT-Seg, arXiv 2303.11797v1, §3.4: ResNet-101 for CLIP ViT-B/16, Swin-B for larger ones.

Shapes: B images, h × w patches of CLIP.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from heads.prompted_encoder import MEAN, STD
from proxyclip.backbones.checkpoints import download, import_library
from proxyclip.backbones.layers import Normalise

PIXELS = 16  # per place of the coarsest features


@dataclass(frozen=True)
class Source:
    """A backbone of timm: its name, which of its feature maps have 4, 8 and 16 pixels per place, and its weights."""

    name: str
    stages: tuple[int, int, int]
    weights: str
    channels_last: bool = False


SOURCES = {
    "resnet101": Source("resnet101", (1, 2, 3), "tv_in1k"),
    "swin_base": Source("swin_base_patch4_window12_384", (0, 1, 2), "ms_in22k", channels_last=True),
}


class GuidanceBackbone(nn.Module):
    """Feature maps with 16, 8 and 4 pixels per place; norms of batches keep the statistics of the published weights."""

    def __init__(self, kind: str, side: int):
        """kind: a name in SOURCES. side: h and w."""
        super().__init__()
        self.source, self.size = SOURCES[kind], PIXELS * side
        self.normalise = Normalise(MEAN, STD)
        self.features = self.create(pretrained=False)
        self.channels = tuple(reversed(self.features.feature_info.channels()))  # of 16, 8 and 4 pixels per place

    def create(self, **weights) -> nn.Module:
        fixed_size = {"img_size": self.size} if self.source.channels_last else {}
        create = import_library("timm").create_model
        return create(self.source.name, features_only=True, out_indices=self.source.stages, **fixed_size, **weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> (B, C, h, w), (B, C', 2 h, 2 w), (B, C'', 4 h, 4 w)."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        maps = self.features(self.normalise(images))
        maps = [found.permute(0, 3, 1, 2) for found in maps] if self.source.channels_last else maps
        return [*reversed(maps)]

    def train(self, mode: bool = True) -> "GuidanceBackbone":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def load_published(self) -> None:
        """Loads the weights that training starts from; NotFound if they are neither in the cache nor reachable."""
        tag = f"{self.source.name}.{self.source.weights}"
        file = download(f"timm/{tag}", ("model.safetensors",), f"timm's {tag}", flag=None)
        found = self.create(pretrained=True, pretrained_cfg_overlay={"file": str(file)})
        self.features.load_state_dict(found.state_dict())
