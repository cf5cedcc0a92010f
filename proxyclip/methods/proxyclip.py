"""ProxyCLIP: the patch similarity of a vision foundation model replaces CLIP's own attention.

ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation (Lan et al., ECCV 2024, arXiv:2408.04883).

Shapes: B windows of c × c pixels, p CLIP's patch size, h × w the VFM's patch grid, N = h * w, C the VFM's width, D
CLIP's width, E its joint embedding width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.methods import _training_free
from proxyclip.methods._proxy_attention import proxy_attend

NEEDS_VFM = True


@dataclass(frozen=True)
class Options(_training_free.Options):
    """beta, gamma: threshold and sharpness of the proxy attention (equations 5 and 6)."""

    beta: float = 1.2
    gamma: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        if not (self.beta >= 0 and self.gamma > 0):
            raise InputError(
                f"beta is {self.beta} and gamma {self.gamma}; beta must not be negative and gamma must be positive"
            )


class ProxyCLIP(_training_free.TrainingFree):
    """The VFM's features determine which patches belong together, CLIP's values what they show."""

    method, only_values = "ProxyCLIP", True

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, h, w)."""
        clip_values = self.clip_values(crops)  # (B, D, c/p, c/p)
        vfm_features = self.vfm_features(crops)  # (B, C, h, w)
        clip_values = F.interpolate(clip_values, vfm_features.shape[-2:], mode="bilinear")  # (B, D, h, w)
        beta, gamma = self.options.beta, self.options.gamma
        mixed = proxy_attend(vfm_features, clip_values.flatten(2).mT, beta, gamma)  # (B, N, D): the same for all heads
        return self.clip.project(mixed).mT.unflatten(2, vfm_features.shape[-2:])  # (B, E, h, w)


Method = ProxyCLIP
