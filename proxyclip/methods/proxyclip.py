"""ProxyCLIP: the patch similarity of a vision foundation model replaces CLIP's own attention.

ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation (Lan et al., ECCV 2024, arXiv:2408.04883).

Shapes: B windows of c × c pixels, p CLIP's patch size, h × w the VFM's patch grid, N = h * w, C the VFM's width, D
CLIP's width, E its joint embedding width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.cpu_kernels import product
from proxyclip.errors import InputError
from proxyclip.methods import _training_free

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

    method = "ProxyCLIP"

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, h, w)."""
        clip_values = self.clip.values(crops)  # (B, D, c/p, c/p)
        vfm_features = self.vfm(crops)  # (B, C, h, w)
        attention = proxy_attention(vfm_features, self.options.beta, self.options.gamma)  # (B, N, N)
        clip_values = F.interpolate(clip_values, vfm_features.shape[-2:], mode="bilinear")  # (B, D, h, w)
        # One attention serves all heads, so the mixing is a single matrix product.
        mixed = product(attention.to(clip_values.dtype), clip_values.flatten(2))  # (B, N, D)
        return self.clip.project(mixed).mT.unflatten(2, vfm_features.shape[-2:])  # (B, E, h, w)


def proxy_attention(features: Tensor, beta: float, gamma: float) -> Tensor:
    """Attention between patches (equations 4-6): rows are queries, and each row sums to one.

    features: (B, C, h, w), any dtype. Returns (B, N, N) in float32, patches in row order. Entries whose cosine
    similarity is below `beta` times the mean similarity in their window are dropped. That is a hard threshold, so it is
    computed in float32 whatever the precision of the features.
    """
    patches = F.normalize(features.float().flatten(2).mT, dim=2)  # (B, N, C)
    similarity = product(patches, patches)  # (B, N, N)
    logits = (similarity - beta * similarity.mean((1, 2), keepdim=True)).mul_(gamma)
    attention = logits.masked_fill(logits < 0, float("-inf"))
    # In a window of almost one colour beta * mean exceeds even a patch's similarity with itself, and a patch without
    # features resembles nothing: there the row would be empty and its softmax NaN. A patch always attends to itself.
    attention.diagonal(dim1=1, dim2=2).copy_(logits.diagonal(dim1=1, dim2=2))
    return attention.softmax(-1)


Method = ProxyCLIP
