"""Linear layers, matrix products and attention on a CPU at the speed of the processor.

PyTorch hands matrix products to MKL, which does without AVX-512 on processors not made by Intel, and convolutions to
oneDNN, which uses it everywhere. A linear layer is a convolution with a 1 × 1 kernel over tokens laid out as pixels;
as such it takes half the time in float32 and no more in bfloat16 (`benchmarks/speed.py --parts`). All views below are
free: nothing is copied.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 128  # query rows at a time: 12 heads' weights for 1800 tokens are then 5 MB and stay in a processor's cache


@cache
def convolutions_are_faster() -> bool:
    """Whether this CPU has AVX-512 and this PyTorch oneDNN."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.backends.mkldnn.is_available()


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """tokens @ weightᵀ + bias: (B, T, I), (O, I), (O) -> (B, T, O)."""
    if tokens.device.type != "cpu" or not convolutions_are_faster():
        return F.linear(tokens, weight, bias)
    pixels = tokens.unsqueeze(2).permute(0, 3, 1, 2)  # (B, I, T, 1), channels last
    kernel = weight[:, None, None].permute(0, 3, 1, 2)  # (O, I, 1, 1), channels last
    return F.conv2d(pixels, kernel, bias).permute(0, 2, 3, 1).squeeze(2)  # (B, T, O)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ bᵀ for each of a batch: (B, N, I), (B, M, I) -> (B, N, M)."""
    if a.device.type != "cpu" or not convolutions_are_faster():
        return a @ b.mT
    return torch.cat([linear(rows[None], weight) for rows, weight in zip(a, b, strict=True)])


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
