"""ProxyCLIP: the patch similarity of a vision foundation model replaces CLIP's own attention.

ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation (Lan et al., ECCV 2024, arXiv:2408.04883).

Shapes: B windows of c × c pixels, p CLIP's patch size, h × w the VFM's patch grid, N = h * w, C the VFM's width, D
CLIP's width, E its joint embedding width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.methods import _training_free

NEEDS_VFM = True
CPU_BLOCK, ACCELERATOR_BLOCK = 2**20, 2**28  # pairs of patches: what a processor's cache holds, 1 GiB of float32
SHORTEST = 1e-12  # a patch whose features are shorter has none
HAS_OUT_DTYPE = "dtype" in torch.ops.aten.bmm.overloads()  # here, since torch.compile cannot trace the question


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


def proxy_attend(features: Tensor, values: Tensor, beta: float, gamma: float) -> Tensor:
    """The values, mixed by the similarity of the patches (ProxyCLIP, equations 4-6).

    features: (B, C, h, w), any dtype. values: (B, N, D), patches in row order. Returns (B, N, D) in the type of the
    values: a softmax over the cosine similarities times `gamma`, without those below `beta` times the mean similarity
    in their window. A patch always attends to itself, as its row would be empty where `beta` times the mean exceeds
    even the similarity with itself (in a window of almost one colour), or where the patch has no features.

    The similarity is computed in float32 whatever the precision of the features, because of the hard threshold. No
    patch resembles another more than itself, so a softmax relative to the diagonal, whose weight is then exactly 1,
    neither overflows nor divides by zero.
    """
    patches = features.flatten(2).mT  # (B, N, C)
    patches = patches if sums_in_float32(patches.device) else patches.float()
    in_range = values.dtype == torch.bfloat16 or sums_in_float32(values.device)  # sums of N float16 may not be
    weighable = values if in_range else values.float()  # (B, N, D)
    length = torch.linalg.vector_norm(patches, dim=2, keepdim=True, dtype=torch.float32)  # (B, N, 1)
    scale = (length > SHORTEST) / length.clamp(min=SHORTEST)  # (B, N, 1)
    # The mean similarity of all pairs of unit vectors is the squared length of their mean.
    least = beta * (patches * scale).mean(1, keepdim=True).square().sum(2, keepdim=True)  # (B, 1, 1)

    mixed = torch.empty_like(values)  # (B, N, D)
    for windows, rows in blocks(len(values), values.shape[1], values.device):
        similarity = product(patches[windows, rows], patches[windows].mT)  # (b, r, N)
        given = similarity, scale[windows], least[windows], gamma, rows.start, weighable.dtype
        weights, total = weigh(*given)  # (b, r, N), (b, r, 1)
        mixed[windows, rows] = (product(weights, weighable[windows]) / total).to(values.dtype)
    return mixed


def weigh(
    similarity: Tensor, scale: Tensor, least: Tensor, gamma: float, first: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights (b, r, N) in `dtype` and their sums (b, r, 1) float32.

    similarity: (b, r, N) float32, inner products of the patches from `first` on with all N; is overwritten. scale:
    (b, N, 1), the reciprocal of their lengths, 0 without features. least: (b, 1, 1), below which a weight is 0.
    """
    chosen = scale[:, first : first + similarity.shape[1]]  # (b, r, 1)
    similarity.mul_(chosen).mul_(scale.mT)
    dropped = similarity < least
    # Rounding lets a similarity exceed the one on the diagonal, which a large gamma would turn into infinity.
    logits = similarity.sub_((chosen > 0).float()).clamp_(max=0).mul_(gamma)  # (b, r, N)
    # A copy, as the backward pass needs the exponentials; they are masked afterwards, as exp(-inf) is slow on CPUs.
    weights = logits.exp_().to(dtype, copy=True).masked_fill_(dropped, 0.0)  # (b, r, N)
    weights.diagonal(first, 1, 2).fill_(1.0)
    return weights, weights.sum(2, keepdim=True, dtype=torch.float32)


def blocks(windows: int, patches: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Windows and rows of each block: several small windows, or a part of a large one."""
    pairs = CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK
    rows = min(patches, max(1, pairs // patches))
    together = max(1, pairs // (rows * patches)) if rows == patches else 1
    return [
        (slice(first, first + together), slice(top, min(top + rows, patches)))
        for first in range(0, windows, together)
        for top in range(0, patches, rows)
    ]


def product(a: Tensor, b: Tensor) -> Tensor:
    """a · b in float32: (b, r, I), (b, I, M) -> (b, r, M)."""
    if a.dtype != torch.float32 and sums_in_float32(a.device):
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a, b).float()


def sums_in_float32(device: torch.device) -> bool:
    """Whether PyTorch gives products of half-precision matrices in float32 there (from 2.8 on, with CUDA).

    Two half-precision numbers multiply to an exact float32, so such products are as good as those of the same numbers
    in float32. Tensors on "meta" have shapes only, and take the same way.
    """
    return HAS_OUT_DTYPE and device.type in ("cuda", "meta")


Method = ProxyCLIP
