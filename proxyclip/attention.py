"""Softmax attention without the matrix of all pairs of tokens, for the transformers walked here."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 128  # query rows at a time: 12 heads' weights for 1800 tokens are then 5 MB and stay in a processor's cache


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v, each (B, heads, T, d) -> (B, heads, T, d).

    PyTorch's fused kernel, except in bfloat16 on a CPU: there it forms its products at float32's speed, and plain
    products, a few rows at a time, take 0.4 of its time (`benchmarks/speed.py --parts`).
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    query = query * query.shape[-1] ** -0.5
    mixed = [torch.softmax(rows @ key.mT, dim=-1) @ value for rows in query.split(ROWS, dim=-2)]
    return torch.cat(mixed, dim=-2)
