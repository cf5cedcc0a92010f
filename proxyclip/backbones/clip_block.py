"""One block of CLIP's image encoder, in the parts that methods put together in their own ways.

Shapes: B windows, T tokens (the class token first), D width, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.cpu_kernels import linear
from proxyclip.backbones.quick_gelu import activate


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
