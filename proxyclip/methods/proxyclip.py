"""Proxy attention: the similarity of a vision foundation model's patches, used in place of CLIP's own attention.

ProxyCLIP (Lan et al., ECCV 2024, arXiv:2408.04883), equations 4-6.
"""

import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.cpu_kernels import product


def proxy_attention(features: Tensor, beta: float = 1.2, gamma: float = 3.0) -> Tensor:
    """Who attends to whom: rows are queries, every row sums to one.

    features: (B, C, h, w), any dtype. Returns (B, N, N) in float32, N = h * w, patches in row order. An entry is
    dropped where its cosine similarity lies below `beta` times the mean similarity of its own window; that is a hard
    threshold, so it is taken in float32 whatever the features' precision.
    """
    patches = F.normalize(features.float().flatten(2).mT, dim=2)  # (B, N, C)
    similarity = product(patches, patches)  # (B, N, N)
    logits = (similarity - beta * similarity.mean((1, 2), keepdim=True)).mul_(gamma)
    attention = logits.masked_fill(logits < 0, float("-inf"))
    # In a window of almost one colour beta * mean exceeds even a patch's similarity with itself, and a patch without
    # features resembles nothing: there the row would be empty and its softmax NaN. A patch always keeps itself.
    attention.diagonal(dim1=1, dim2=2).copy_(logits.diagonal(dim1=1, dim2=2))
    return attention.softmax(-1)
