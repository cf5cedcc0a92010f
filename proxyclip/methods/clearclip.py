"""ClearCLIP: the last block's attention output alone, by the similarity of queries.

ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference (Lan et al., ECCV 2024,
arXiv:2407.12442): no residual connection, query-query attention, no feed-forward network. The published code has a
non-commercial licence (NTU S-Lab License 1.0); written from the paper.

Shapes: B windows of c × c pixels, p the patch size, T tokens (the class token first), D width, E joint embedding width.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import heads, join, run_network
from proxyclip.methods import _training_free

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """What the paper compares. attention: which vectors of a head determine the attention: queries with queries, keys
    with keys, values with values, or queries with keys as in CLIP. residual: whether the residual connections and the
    feed-forward network stay."""

    attention: Literal["qq", "kk", "vv", "qk"] = "qq"
    residual: bool = False


class ClearCLIP(_training_free.TrainingFree):
    """Attention between patches with similar queries; the class token is attended to as well."""

    method = "ClearCLIP"

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        block, tokens = self.clip.blocks[-1], self.clip.before_last_block(crops)  # (B, T, D)
        of = dict(zip("qkv", heads(block, tokens), strict=True))  # (B, heads, T, d) each
        left, right = self.options.attention
        attended = join(block, F.scaled_dot_product_attention(of[left], of[right], of["v"]))  # (B, T, D)
        if self.options.residual:
            attended = run_network(block, tokens + block.ls_1(attended))
        return self.clip.finish(attended[:, 1:]).mT.unflatten(2, self.clip.grid(crops))  # (B, E, c/p, c/p)


Method = ClearCLIP
