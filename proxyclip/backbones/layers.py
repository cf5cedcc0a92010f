"""Layers that the image towers share: linear layers, CLIP's block in parts, normalisation, position tables.

A CPU can compute a linear layer in two ways. PyTorch runs matrix products through MKL and convolutions through oneDNN,
and a linear layer is a 1 × 1 convolution over tokens laid out as pixels; the results agree up to rounding. oneDNN uses
AVX-512 wherever there is one; MKL does not on some processors. oneDNN is the default; PROXYCLIP_CPU_LINEAR=mkl chooses
the other, and `Segmentor.settings` records which one it was.

Shapes: B windows, T tokens (the class token first), D width, d width of a head, I inputs and O outputs of a linear
layer; M_h × M_w the grid of a position table, h × w the wanted one.
"""

import math
import os
from threading import Lock

import torch
import torch.nn.functional as F
from cachetools import LRUCache, cached
from torch import Tensor, nn

from proxyclip.backbones.precision import exact_float32
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


STEEPNESS = 1.702


def activate(module: nn.Module, x: Tensor) -> Tensor:
    """What an activation module of open_clip returns for x."""
    if type(module).__name__ != "QuickGELU" or torch.compiler.is_compiling():
        return module(x)
    return _QuickGELU.apply(x)


class _QuickGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (STEEPNESS * x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        gate = (STEEPNESS * x).sigmoid_()  # σ
        # The slope is σ + 1.702 x σ (1 − σ) = σ (1 + 1.702 x (1 − σ)).
        return (1 - gate).mul_(x).mul_(STEEPNESS).add_(1).mul_(gate).mul_(grad)


def heads(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block for the tokens (B, T, D) that enter it, (B, heads, T, d) each."""
    layer = block.attn
    projected = linear(block.ln_1(tokens), layer.in_proj_weight, layer.in_proj_bias)  # (B, T, 3 D)
    return tuple(projected.unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4))  # 3 of (B, heads, T, d)


def heads_in_context(block: nn.Module, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the tokens (B, T, D), (B, heads, T, d), and keys and values of the tokens and the context (B, P, D),
    (B, heads, T + P, d) each."""
    layer, width = block.attn, tokens.shape[2]
    weight, bias = layer.in_proj_weight, layer.in_proj_bias  # (3 D, D), (3 D): queries, keys, values
    normed = block.ln_1(tokens)
    known = torch.cat([normed, block.ln_1(context)], dim=1)  # (B, T + P, D)
    query = linear(normed, weight[:width], bias[:width]).unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
    projected = linear(known, weight[width:], bias[width:]).unflatten(2, (2, layer.num_heads, -1))
    return query, *projected.permute(2, 0, 3, 1, 4)  # (B, heads, T, d), 2 of (B, heads, T + P, d)


def join(block: nn.Module, mixed: Tensor) -> Tensor:
    """Mixed values of all heads, through the block's output projection: (B, heads, T, d) -> (B, T, D)."""
    out = block.attn.out_proj
    return linear(mixed.transpose(1, 2).flatten(2), out.weight, out.bias)  # (B, T, D)


def run_block(block: nn.Module, tokens: Tensor, context: Tensor | None = None) -> Tensor:
    """One pre-norm transformer block, (B, T, D) -> (B, T, D), without holding a (T, T) attention matrix.

    context: (B, P, D), further tokens that are attended to, and of which no output is needed.
    """
    query, key, value = heads(block, tokens) if context is None else heads_in_context(block, tokens, context)
    return after_attention(block, tokens, F.scaled_dot_product_attention(query, key, value))


def after_attention(block: nn.Module, tokens: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a block: the tokens (B, T, D) that entered it and the mixed values (B, heads, T, d) -> (B, T, D)."""
    return run_network(block, tokens + block.ls_1(join(block, mixed)))


def run_network(block: nn.Module, tokens: Tensor) -> Tensor:
    """The second half of a transformer block, its feed-forward network: (B, T, D) -> (B, T, D)."""
    mlp = block.mlp
    hidden = activate(mlp.gelu, linear(block.ln_2(tokens), mlp.c_fc.weight, mlp.c_fc.bias))  # (B, T, 4 D)
    return tokens + block.ls_2(linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias))


class Normalise(nn.Module):
    """Subtracts `mean` and divides by `std`, three numbers each in RGB order.

    The statistics move with the model, so a forward pass copies nothing from the host. They stay in float32 when the
    model is cast to half precision, and are not part of its state dict, so checkpoints and fingerprints do not include
    them.
    """

    def __init__(self, mean, std):
        super().__init__()
        try:
            self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        except (TypeError, ValueError):
            raise InputError(f"mean {mean!r} and std {std!r} must be three numbers each") from None
        finite = all(map(math.isfinite, self.mean + self.std))
        if not (len(self.mean) == len(self.std) == 3 and finite and min(self.std) > 0):
            raise InputError(f"mean {mean!r} and std {std!r} must be three finite numbers each, those of std positive")
        self.register_buffer("constants", self.on(torch.device("cpu")), persistent=False)

    def on(self, device: torch.device) -> Tensor:
        """Mean and std on a device, (2, 3, 1, 1)."""
        return torch.tensor([self.mean, self.std], dtype=torch.float32, device=device)[..., None, None]

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.constants = self.on(self.constants.device)  # a cast to half precision would have rounded them
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> the same shape, float32, normalised."""
        mean, std = self.constants
        return (images.float() - mean) / std


def resample(table: Tensor, size: tuple[int, int], offset: float | None = None, antialias: bool = False) -> Tensor:
    """A table (M_h, M_w, D) at `size` = (h, w): (h, w, D) in float32, whatever the type of the table.

    offset: None places the sampling points by the two sizes; a number places them by the scale factor
    (n + offset) / M, as the published code of CLIP and DINO does with 0.1. antialias: as of F.interpolate.
    """
    # A tensor of a compiler's trace must not outlive it.
    make = sampling_matrix if torch.compiler.is_compiling() else cached_sampling_matrix
    rows, columns = (
        make(length, out, offset, antialias, table.device) for length, out in zip(table.shape[:2], size, strict=True)
    )  # (h, M_h), (w, M_w)
    with exact_float32(table.device):
        table = (rows @ table.float().flatten(1)).unflatten(1, table.shape[1:])  # (h, M_w, D)
        return columns @ table  # (h, w, D)


def sampling_matrix(length: int, out: int, offset: float | None, antialias: bool, device: torch.device) -> Tensor:
    """(out, length), float32, on `device`: the matrix by which F.interpolate resamples one axis bicubically."""
    # On the CPU for every device, and outside inference mode: MPS has no antialiased bicubic resampling, and a tensor
    # of inference mode could not take part in training later.
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(length, dtype=torch.float32, device="cpu")[None, None]  # (1, 1, length, length)
        size = {"size": (out, length)} if offset is None else {"scale_factor": ((out + offset) / length, 1.0)}
        return F.interpolate(unit, mode="bicubic", antialias=antialias, **size)[0, 0].to(device)  # (out, length)


# Whole images come in many sizes: at most 32 MiB of matrices are kept.
cached_sampling_matrix = cached(LRUCache(32 * 2**20, getsizeof=lambda matrix: matrix.nbytes), lock=Lock())(
    sampling_matrix
)
