"""Fast linear layers, matrix products and attention on CPUs.

PyTorch runs matrix products through MKL and convolutions through oneDNN. A linear layer is a 1 × 1 convolution over
tokens laid out as pixels, so either library can compute it. Which one is faster depends on the processor: oneDNN always
uses AVX-512 where available, MKL does not on some non-Intel processors. Measured speed-ups range from 0.9 to 2.2
(`benchmarks/speed.py --parts`), so the first linear layer, product and attention of a process and type time both ways,
which takes 10 to 50 ms each. The results agree up to rounding. To choose without measuring, set PROXYCLIP_CPU_LINEAR or
PROXYCLIP_CPU_PRODUCT to mkl or onednn, or PROXYCLIP_CPU_ATTENTION to fused or rows.

All reshapes below are views: nothing is copied.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.cpu_choice import ours_is_faster

ROWS = 128  # query rows at a time: 12 heads' weights for 1800 tokens are then 5 MB and stay in a processor's cache
PARTS, TOKENS, WIDTH = 16, 28, 768  # of the layer that is measured
CLEAR = 1.25  # a factor that counts: where both take about as long, chance must not decide


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """tokens @ weightᵀ + bias: (B, T, I), (O, I), (O) -> (B, T, O).

    For the backward pass, tokens are kept only where weights are trained.
    """
    if not on_cpu(tokens) or not convolutions_are_faster(computed_type(tokens)):
        return F.linear(tokens, weight, bias)
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and tokens.requires_grad and not trained:
        return _FrozenConvolution.apply(tokens, weight, bias)
    return convolution(tokens, weight, bias)


class _FrozenConvolution(torch.autograd.Function):
    """`convolution` by weights that are not trained: autograd's own keeps its input, whether it needs it or not."""

    @staticmethod
    def forward(ctx, tokens, weight, bias):
        ctx.save_for_backward(weight)
        return convolution(tokens, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        size = len(grad), weight.shape[1], grad.shape[1], 1  # (B, I, T, 1)
        kernel = as_pixels(weight.to(grad.dtype)[:, None])  # (O, I, 1, 1)
        return as_tokens(torch.nn.grad.conv2d_input(size, kernel, as_pixels(grad))), None, None


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ bᵀ for each of a batch: (B, N, I), (B, M, I) -> (B, N, M)."""
    by_onednn = on_cpu(a) and convolved_products_are_faster(computed_type(a))
    return convolved_product(a, b) if by_onednn else plain_product(a, b)


def plain_product(a: Tensor, b: Tensor) -> Tensor:
    """`product`, computed by MKL."""
    return a @ b.mT


def convolved_product(a: Tensor, b: Tensor) -> Tensor:
    """`product`, computed by oneDNN."""
    return torch.cat([convolution(rows[None], weight) for rows, weight in zip(a, b, strict=True)])


def convolution(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear`, computed by oneDNN."""
    # The dilation of a 1 × 1 kernel means nothing. Without one, PyTorch leaves small float32 batches on one thread to
    # MKL, in a slower layout.
    return as_tokens(F.conv2d(as_pixels(tokens), as_pixels(weight[:, None]), bias, dilation=2))  # (B, T, O)


def as_pixels(tokens: Tensor) -> Tensor:
    """(B, T, I) -> (B, I, T, 1), channels last."""
    return tokens.unsqueeze(2).permute(0, 3, 1, 2)


def as_tokens(pixels: Tensor) -> Tensor:
    """(B, I, T, 1) -> (B, T, I)."""
    return pixels.permute(0, 2, 3, 1).squeeze(2)


def on_cpu(tensor: Tensor) -> bool:
    """Whether the kernels of this file apply: on a CPU, and not under torch.compile, which has its own."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def computed_type(tensor: Tensor) -> torch.dtype:
    """The type that products of the tensor are computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tensor.dtype


@cache
def convolutions_are_faster(dtype: torch.dtype) -> bool:
    """Whether linear layers run through oneDNN."""
    # With all layers on all cores oneDNN does a little better than the one measured.
    margin = 1 / CLEAR if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else CLEAR
    arguments = torch.ones(PARTS, TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    return torch.backends.mkldnn.is_available() and ours_is_faster(
        "PROXYCLIP_CPU_LINEAR", ("mkl", "onednn"), F.linear, convolution, arguments, margin
    )


@cache
def convolved_products_are_faster(dtype: torch.dtype) -> bool:
    """Whether products run through oneDNN, measured on a square one that is laid out as a linear layer."""
    size = PARTS * TOKENS
    arguments = torch.ones(PARTS, TOKENS, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    return torch.backends.mkldnn.is_available() and ours_is_faster(
        "PROXYCLIP_CPU_PRODUCT", ("mkl", "onednn"), F.linear, convolution, arguments, CLEAR
    )


@cache
def rows_are_faster(dtype: torch.dtype) -> bool:
    """Whether attention is computed by `attend_by_rows`; for bfloat16, other types have a fast fused kernel."""
    arguments = torch.ones(3, 1, 6, 3 * ROWS, 64, dtype=dtype)
    return dtype == torch.bfloat16 and ours_is_faster(
        "PROXYCLIP_CPU_ATTENTION", ("fused", "rows"), F.scaled_dot_product_attention, attend_by_rows, arguments, 1.0
    )


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale · q kᵀ + bias) v, each (B, heads, T, d) -> (B, heads, T, d).

    bias: (T, T), added to the logits of all heads. scale: default d^(-1/2).

    Uses PyTorch's fused kernel, except for bfloat16 on a CPU, where `attend_by_rows` is used if it is faster. With
    gradients that would keep the matrices of all pairs of tokens.
    """
    trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if not trained and on_cpu(query) and rows_are_faster(query.dtype):
        return attend_by_rows(query, key, value, bias, scale)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def attend_by_rows(query, key, value, bias=None, scale=None) -> Tensor:
    """`attend` by plain products, a few rows at a time: they compute bfloat16 at its own speed, where the fused kernel
    computes at the speed of float32. Measured at 0.4 to 0.8 of its time (`benchmarks/speed.py --parts`)."""
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    mixed = []
    for start in range(0, query.shape[-2], ROWS):
        logits = query[..., start : start + ROWS, :] @ key.mT  # (B, heads, rows, T)
        if bias is not None:
            logits += bias[start : start + ROWS]
        mixed.append(logits.softmax(-1) @ value)  # (B, heads, rows, d)
    return torch.cat(mixed, dim=-2)
