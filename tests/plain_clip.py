"""CLIP's image encoder for slow, obvious implementations: one window, float64, one head after another.

Shapes: T tokens (the class token first), D width, d width of a head, E joint embedding width.
"""

import math
from copy import deepcopy

import torch
from torch import Tensor

from proxyclip.backbones.clip import DenseCLIP


def outputs(clip: DenseCLIP, crop: Tensor) -> list[Tensor]:
    """(3, H, W) -> the tokens (T, D) that enter the first block, and the output of each block but the last, as
    open_clip computes it."""
    exact = deepcopy(clip).double()
    found = [exact.embed(crop[None].double())]
    for block in exact.blocks[:-1]:
        found.append(block(found[-1]))
    return [tokens[0] for tokens in found]


def heads(block, tokens: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values (T, d) of each head."""
    block = deepcopy(block).double()
    projected = block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias  # (T, 3 D)
    parts = [part.chunk(block.attn.num_heads, dim=1) for part in projected.chunk(3, dim=1)]
    return list(zip(*parts, strict=True))


def weights(query: Tensor, key: Tensor, bias: Tensor | float = 0.0, factor: float = 1.0) -> Tensor:
    """softmax(factor * q kᵀ / √d + bias), row by row: (T, T)."""
    logits = factor * query @ key.T / math.sqrt(key.shape[1]) + bias
    return torch.stack([row.exp() / row.exp().sum() for row in logits])


def joined(block, mixed: list[Tensor]) -> Tensor:
    """The mixed values (T, d) of all heads through the block's output projection: (T, D)."""
    out = deepcopy(block).double().attn.out_proj
    return torch.cat(mixed, dim=1) @ out.weight.T + out.bias


def finished(clip: DenseCLIP, tokens: Tensor) -> Tensor:
    """(T, D) -> joint embeddings (T, E)."""
    visual = deepcopy(clip.visual).double()
    return visual.ln_post(tokens) @ visual.proj


def unit(vectors: Tensor) -> Tensor:
    return torch.stack([vector / vector.norm() for vector in vectors])
