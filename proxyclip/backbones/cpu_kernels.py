"""Fast linear layers, matrix products and attention on CPUs.

PyTorch runs matrix products through MKL and convolutions through oneDNN. A linear layer is a 1 × 1 convolution over
tokens laid out as pixels, so either library can compute it. Which one is faster depends on the processor: oneDNN always
uses AVX-512 where available, MKL does not on some non-Intel processors. Measured speed-ups range from 0.9 to 2.2
(`benchmarks/speed.py --parts`), so the first layer of a process times both, which takes about 20 ms. The results agree
up to rounding. PROXYCLIP_CPU_LINEAR=mkl or onednn chooses without measuring.

All reshapes below are views: nothing is copied.
"""

import os
import time
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.errors import InputError

ROWS = 128  # query rows at a time: 12 heads' weights for 1800 tokens are then 5 MB and stay in a processor's cache
TRIALS = 6
CLEAR = 1.25  # a factor that counts: where both take about as long, chance must not decide


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """tokens @ weightᵀ + bias: (B, T, I), (O, I), (O) -> (B, T, O).

    For the backward pass, tokens are kept only where weights are trained.
    """
    if not use_convolution(tokens):
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
    if not use_convolution(a):
        return a @ b.mT
    return torch.cat([convolution(rows[None], weight) for rows, weight in zip(a, b, strict=True)])


def convolution(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear`, computed by oneDNN."""
    return as_tokens(F.conv2d(as_pixels(tokens), as_pixels(weight[:, None]), bias))  # (B, T, O)


def as_pixels(tokens: Tensor) -> Tensor:
    """(B, T, I) -> (B, I, T, 1), channels last."""
    return tokens.unsqueeze(2).permute(0, 3, 1, 2)


def as_tokens(pixels: Tensor) -> Tensor:
    """(B, I, T, 1) -> (B, T, I)."""
    return pixels.permute(0, 2, 3, 1).squeeze(2)


def use_convolution(tokens: Tensor) -> bool:
    """Whether `convolution` is faster for tokens of this type and device; False under torch.compile."""
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    return convolutions_are_faster(torch.get_autocast_dtype("cpu") if autocast else tokens.dtype)


@cache
def convolutions_are_faster(dtype: torch.dtype) -> bool:
    """The choice for this processor: PROXYCLIP_CPU_LINEAR, or a measurement once per process and type."""
    chosen = os.environ.get("PROXYCLIP_CPU_LINEAR", "")
    if chosen not in ("", "mkl", "onednn"):
        raise InputError(f"PROXYCLIP_CPU_LINEAR is {chosen!r}; choose mkl or onednn, or leave it unset to measure")
    if not torch.backends.mkldnn.is_available():
        return False
    if chosen:
        return chosen == "onednn"
    plain, convolved = measure(dtype)
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return (
            CLEAR * plain > convolved
        )  # with all layers on all cores oneDNN does a little better than the one measured
    return plain > CLEAR * convolved


def measure(dtype: torch.dtype) -> tuple[float, float]:
    """Seconds for a linear layer as a matrix product and as a convolution, the best of a few alternating trials.

    Runs on one thread and uses its CPU time, so that other processes hardly affect the result. On one thread, PyTorch
    runs 1 × 1 convolutions through oneDNN from a batch of 16 on.
    """
    tokens, weight = torch.ones(16, 16, 384, dtype=dtype), torch.ones(768, 384, dtype=dtype)
    seconds = {F.linear: [], convolution: []}
    clock = time.perf_counter if os.name == "nt" else time.thread_time  # Windows counts threads' time in steps of 16 ms
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(TRIALS):
                for function, taken in seconds.items():
                    start = clock()
                    function(tokens, weight)
                    taken.append(clock() - start)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[F.linear]), min(seconds[convolution])


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale · q kᵀ + bias) v, each (B, heads, T, d) -> (B, heads, T, d).

    bias: (T, T), added to the logits of all heads. scale: default d^(-1/2).

    Uses PyTorch's fused kernel, except for bfloat16 on a CPU. There the fused kernel computes products at float32
    speed; plain products, a few rows at a time, take 0.4 of its time (`benchmarks/speed.py --parts`). With gradients
    that would keep the matrices of all pairs of tokens.
    """
    trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if trained or query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    mixed = []
    for start in range(0, query.shape[-2], ROWS):
        logits = query[..., start : start + ROWS, :] @ key.mT  # (B, heads, rows, T)
        if bias is not None:
            logits += bias[start : start + ROWS]
        mixed.append(logits.softmax(-1) @ value)  # (B, heads, rows, d)
    return torch.cat(mixed, dim=-2)
