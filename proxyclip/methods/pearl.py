"""PEARL: the keys of CLIP's last block are rotated towards its queries, and similar keys attract each other.

PEARL: Geometry Aligns Semantics for Training-Free Open-Vocabulary Semantic Segmentation (Pei et al., CVPR 2026,
arXiv:2603.21528): its Procrustes alignment. The propagation of scores that follows there is the refinement "tlp". The
published code has no licence; written from the paper.

Shapes: B windows of c × c pixels, p the patch size, T tokens (the class token first), d width of a head, E joint
embedding width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import heads, join
from proxyclip.errors import InputError
from proxyclip.methods import _training_free

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """alpha: weight of the similarity of keys in the attention (0.3 for ADE20K and Cityscapes). steps: Newton-Schulz
    iterations towards the rotation. class_token: whether the class token counts in the means of queries and keys."""

    alpha: float = 0.08
    steps: int = 5
    class_token: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not (self.alpha >= 0 and 1 <= self.steps <= 100):
            raise InputError(
                f"alpha is {self.alpha} and steps {self.steps}; alpha must not be negative, and steps be from 1 to 100"
            )


class PEARL(_training_free.TrainingFree):
    """The attention of rotated keys mixes the values, without residual and MLP."""

    method = "PEARL"

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        block = self.clip.blocks[-1]
        # The rotation is ill-conditioned: float32, whatever the precision of the tower.
        query, key, value = (part.float() for part in heads(block, self.clip.before_last_block(crops)))
        width = value.shape[-1]
        query, key = aligned(query, key, self.options)  # (B, heads, T, 2 d)
        value = F.pad(value, (0, width))  # (B, heads, T, 2 d): CPUs have a fused kernel for equal widths only
        mixed = F.scaled_dot_product_attention(query, key, value, scale=width**-0.5)[..., :width]  # (B, heads, T, d)
        patches = join(block, mixed.to(self.clip.dtype))[:, 1:]  # (B, T - 1, D)
        return self.clip.finish(patches).mT.unflatten(2, self.clip.grid(crops))  # (B, E, c/p, c/p)


def aligned(query: Tensor, key: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Queries and keys (…, T, d) -> those of PEARL's attention, (…, T, 2 d).

    The logits q (k R)ᵀ + alpha · Kc Kcᵀ, with Kc the centred keys, are one product: [q, alpha Kc] · [k R, Kc]ᵀ.
    """
    centred_query, centred_key = centred(query, key, options.class_token)
    turned = key @ rotation(centred_key.mT @ centred_query, options.steps)  # (…, T, d)
    return torch.cat([query, options.alpha * centred_key], -1), torch.cat([turned, centred_key], -1)


def centred(query: Tensor, key: Tensor, class_token: bool) -> tuple[Tensor, Tensor]:
    """All queries and keys (…, T, d) minus their means, to which a token contributes by the length of its query."""
    weights = query.norm(dim=-1, keepdim=True)  # (…, T, 1)
    if not class_token:
        weights[..., 0, :] = 0
    weights = weights / (weights.sum(-2, keepdim=True) + 1e-6)
    return tuple(part - (weights * part).sum(-2, keepdim=True) for part in (query, key))


def rotation(covariance: Tensor, steps: int) -> Tensor:
    """M (MᵀM)^(-1/2) of M (…, d, d), by Newton-Schulz iterations.

    After the five steps of the published runs it is far from a rotation; the converged one gives other results.
    """
    gram = covariance.mT @ covariance  # (…, d, d)
    length = gram.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)  # (…, 1, 1); 0 where all queries are equal
    identity = torch.eye(gram.shape[-1], device=gram.device)
    root, inverse = gram / length + 1e-6 * identity, identity  # towards the square root and its inverse
    for _ in range(steps):
        change = 1.5 * identity - 0.5 * inverse @ root
        root, inverse = root @ change, change @ inverse
    return covariance @ inverse / length.sqrt()


Method = PEARL
