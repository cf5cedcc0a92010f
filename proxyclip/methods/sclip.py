"""SCLIP: in CLIP's last block, patches attend to those with similar queries and to those with similar keys.

SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference (Wang, Mei & Yuille, ECCV 2024, arXiv:2312.01597),
section 3: correlative self-attention. The published code has no licence; written from the paper.

Shapes: B windows of c × c pixels, p the patch size, T tokens (the class token first), d width of a head, E joint
embedding width.
"""

import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import heads, join, run_network
from proxyclip.methods._training_free import Options, TrainingFree

__all__ = ["Options"]
NEEDS_VFM = False


class SCLIP(TrainingFree):
    """Correlative self-attention in the last block, which keeps its residual connections and feed-forward network."""

    method = "SCLIP"

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        block, tokens = self.clip.blocks[-1], self.clip.before_last_block(crops)  # (B, T, D)
        mixed = correlative_attention(*heads(block, tokens))  # (B, heads, T, d)
        tokens = run_network(block, tokens + block.ls_1(join(block, mixed)))[:, 1:]  # (B, c/p * c/p, D)
        return self.clip.finish(tokens).mT.unflatten(2, self.clip.grid(crops))  # (B, E, c/p, c/p)


def correlative_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q qᵀ / √d) v + softmax(k kᵀ / √d) v, each (B, heads, T, d): a sum, not a mean, as in the paper."""
    return F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)


Method = SCLIP
