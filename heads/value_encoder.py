"""CLIP's image tower with an embedding for every patch, made of the values of its last block alone.

Zhou et al., Extract Free Dense Labels from CLIP, 2022, §3.2, in the form of CAT-Seg (Cho et al., 2024), §3.1: the last
block keeps its feed-forward network, and the residual of every patch is the class token.

Shapes: B images, T = 1 + h * w tokens (the class token first), D width, E joint embedding width, P prompts per block.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import linear, run_block, run_network


class Encoded(NamedTuple):
    """patches: joint embeddings (B, E, h, w), not normalised. levels: patch tokens (B, D, h, w) after the blocks asked
    for."""

    patches: Tensor
    levels: tuple[Tensor, ...]


def encode(
    clip: DenseCLIP, images: Tensor, levels: tuple[int, ...], prompts: Tensor | None = None, checkpointing: bool = False
) -> Encoded:
    """(B, 3, H, W) RGB in [0, 1] -> embeddings of the patches.

    levels: blocks, counted from 0, whose patch tokens are returned as well. prompts: (N, P, D), tokens that the patches
    of each block attend to. checkpointing: whether activations of a block are computed again in the backward pass.
    """
    visual, found = clip.visual, {}
    tokens, grid = clip.embed(images, offset=None), clip.grid(images)  # (B, T, D)
    *blocks, last = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        own = None if prompts is None else prompts[index].expand(len(images), -1, -1).to(tokens.dtype)  # (B, P, D)
        if checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(run_block, block, tokens, own, use_reentrant=False)
        else:
            tokens = run_block(block, tokens, own)
        if index in levels:
            found[index] = tokens[:, 1:].mT.unflatten(2, grid)  # (B, D, h, w)
    patches = visual.ln_post(values_only(last, tokens)) @ visual.proj  # (B, h * w, E)
    return Encoded(patches.mT.unflatten(2, grid), tuple(found[index] for index in levels))


def values_only(block: nn.Module, tokens: Tensor) -> Tensor:
    """A block in which each patch attends to itself alone: (B, T, D) -> patches (B, h * w, D)."""
    layer, width = block.attn, tokens.shape[2]
    weight, bias = layer.in_proj_weight[2 * width :], layer.in_proj_bias[2 * width :]
    values = linear(block.ln_1(tokens[:, 1:]), weight, bias)  # (B, h * w, D)
    values = block.ls_1(linear(values, layer.out_proj.weight, layer.out_proj.bias))
    return run_network(block, tokens[:, :1] + values)
