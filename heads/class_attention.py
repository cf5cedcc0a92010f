"""Class cost aggregation: at each place of the pooled cost maps, the classes attend to each other, guided by the text.

Cho et al., CAT-Seg, 2024, §3.2. Linear attention: Katharopoulos et al., Transformers are RNNs, 2020, §3.2.

The published code pads the classes with a learned token to `pad_len` and lets it take part in the attention. All
padding is alike, so it enters here as one token that counts several times.

Shapes: B images, K classes, h × w patches, C hidden width, G guidance width, M = B * pooled places, H heads, d = C / H.
"""

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.parts import in_parts
from proxyclip.backbones.layers import linear

EPSILON = 1e-6


class ClassAttention(nn.Module):
    """One pre-norm block of attention among the classes, with a feed-forward network."""

    def __init__(
        self,
        width: int,
        guidance: int,
        heads: int,
        pooling: tuple[int, int],
        kind: Literal["linear", "full"],
        pad: int,
    ):
        """pooling: sides of the places in patches, in training and in evaluation. pad: number of classes below which
        padding takes part, `pad_len`."""
        super().__init__()
        self.heads, self.pooling, self.kind, self.pad = heads, pooling, kind, pad
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width + guidance, width)
        self.key = nn.Linear(width + guidance, width)
        self.value = nn.Linear(width, width)
        self.norm_network = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        if pad:
            self.padding = nn.Parameter(torch.zeros(1, 1, width))
            self.padding_guidance = nn.Parameter(torch.zeros(1, 1, guidance))

    def forward(self, x: Tensor, guidance: Tensor, at_a_time: int) -> Tensor:
        """(B, K, h, w, C), text guidance (B, K, G) -> (B, K, h, w, C). at_a_time: places."""
        batch, classes, height, width, _ = x.shape
        pooled, side = x, self.pooling[0 if self.training else 1]
        if side > 1:
            maps = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), side)  # (B * K, C, h', w')
            pooled = maps.permute(0, 2, 3, 1).unflatten(0, (batch, classes))  # (B, K, h', w', C)
        places = pooled.shape[2:4]
        attend = partial(self.at_places, guidance=guidance)
        tokens = in_parts(attend, pooled.flatten(2, 3), 2, at_a_time)  # (B, K, h' * w', C)
        if side == 1:
            return x + tokens.view_as(x)
        maps = tokens.unflatten(2, places).flatten(0, 1).permute(0, 3, 1, 2)  # (B * K, C, h', w')
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)  # (B * K, C, h, w)
        return x + maps.permute(0, 2, 3, 1).reshape(x.shape)

    def at_places(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        """(B, K, S, C), (B, K, G) -> (B, K, S, C): the block at S places, each on its own."""
        tokens = tokens + self.attention(self.norm_attention(tokens), guidance)
        hidden = linear(self.norm_network(tokens).flatten(1, 2), self.widen.weight, self.widen.bias).relu_()
        return tokens + linear(hidden, self.narrow.weight, self.narrow.bias).view_as(tokens)

    def attention(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        """(B, K, S, C), (B, K, G) -> (B, K, S, C), at each of the S places among the classes."""
        width = tokens.shape[3]
        weight = torch.cat([self.query.weight[:, :width], self.key.weight[:, :width], self.value.weight])  # (3 C, C)
        of_text = torch.cat([self.query.weight[:, width:], self.key.weight[:, width:]])  # (2 C, G)
        bias = torch.cat([self.query.bias, self.key.bias])
        shared = F.linear(guidance, of_text, bias)  # (B, K, 2 C): the same at all places
        shared = torch.cat([shared, self.value.bias.to(shared.dtype).expand(*shared.shape[:2], -1)], dim=2)
        projected = linear(tokens.flatten(1, 2), weight).view(*tokens.shape[:3], -1).add_(shared[:, :, None])
        parts = projected.unflatten(3, (3, self.heads, -1)).permute(3, 0, 2, 4, 1, 5)  # (3, B, S, H, K, d)
        key, value, count = self.padded(tokens.shape[1])
        mixed = (linear_attention if self.kind == "linear" else full_attention)(*parts, key, value, count)
        return mixed.permute(0, 3, 1, 2, 4).flatten(3)  # (B, K, S, C)

    def padded(self, classes: int) -> tuple[Tensor | None, Tensor | None, int]:
        """Key and value (H, 1, d) of the padding, and how often it counts."""
        if not self.pad:
            return None, None, 0
        normed = self.norm_attention(self.padding)  # (1, 1, C)
        key = self.key(torch.cat([normed, self.padding_guidance], dim=2))
        parts = (part.view(self.heads, 1, -1) for part in (key, self.value(normed)))
        return *parts, max(0, self.pad - classes)


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, pad_key: Tensor | None, pad_value: Tensor | None, count: int
) -> Tensor:
    """(..., H, K, d) each, and of the padding (H, 1, d) -> (..., H, K, d)."""
    query, key = F.elu(query) + 1, F.elu(key) + 1
    products, total = key.mT @ value, key.sum(-2, keepdim=True)  # (..., H, d, d), (..., H, 1, d)
    if pad_key is not None:
        pad_key = (F.elu(pad_key) + 1) * count
        products, total = products + pad_key.mT @ pad_value, total + pad_key
    return (query @ products) / (query @ total.mT + EPSILON)


def full_attention(
    query: Tensor, key: Tensor, value: Tensor, pad_key: Tensor | None, pad_value: Tensor | None, count: int
) -> Tensor:
    """Softmax attention; the arguments are those of `linear_attention`."""
    mask = None
    if pad_key is not None:
        shape = (*key.shape[:-2], 1, key.shape[-1])
        key, value = (torch.cat([own, pad.to(own.dtype).expand(shape)], dim=-2)
                      for own, pad in ((key, pad_key), (value, pad_value)))  # fmt: skip
        mask = torch.zeros(key.shape[-2], dtype=query.dtype, device=query.device)  # (K + 1,)
        mask[-1] = math.log(count) if count else -math.inf
        mask = mask.expand(query.shape[-2], -1)  # (K, K + 1)
    start = query.shape[:-3]
    parts = (part.flatten(0, -4) for part in (query, key, value))  # (M, H, K or K + 1, d)
    return F.scaled_dot_product_attention(*parts, attn_mask=mask).unflatten(0, start)
