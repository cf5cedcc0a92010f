"""Linear layers, which a CPU can compute in two ways.

PyTorch runs matrix products through MKL and convolutions through oneDNN. A linear layer is a 1 × 1 convolution over
tokens laid out as pixels, so either library can compute it, and the results agree up to rounding. oneDNN uses AVX-512
wherever there is one; MKL does not on some processors. oneDNN is the default; PROXYCLIP_CPU_LINEAR=mkl chooses the
other, and `Segmentor.settings` records which one it was.

All reshapes below are views: nothing is copied.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.errors import InputError


def cpu_linear() -> str:
    """The library that computes linear layers on a CPU: "onednn" where PyTorch has it, or "mkl"."""
    chosen = os.environ.get("PROXYCLIP_CPU_LINEAR") or "onednn"
    if chosen not in ("mkl", "onednn"):
        raise InputError(f"PROXYCLIP_CPU_LINEAR is {chosen!r}; choose onednn (the default) or mkl")
    return chosen if torch.backends.mkldnn.is_available() else "mkl"


def cpu_settings(device: torch.device) -> dict:
    """The part of a model's settings about linear layers: nothing on an accelerator."""
    return {"linear": cpu_linear()} if device.type == "cpu" else {}


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """tokens @ weightᵀ + bias: (B, T, I), (O, I), (O) -> (B, T, O).

    For the backward pass, tokens are kept only where weights are trained.
    """
    if tokens.device.type != "cpu" or torch.compiler.is_compiling() or cpu_linear() == "mkl":
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
