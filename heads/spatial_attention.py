"""Spatial cost aggregation: within the cost map of each class, shifted windows attend to themselves, guided by the
image.

Cho et al., CAT-Seg, 2024, §3.2; windows of Liu et al., Swin Transformer, 2021, §3.2, without a relative position bias.

Queries and keys are projections of the concatenation of a class's tokens and the guidance. The guidance is the same for
all classes, so its share of the projection is computed once for an image.

Shapes: B images, K classes, h × w patches, C hidden width, G guidance width, N = B * K, s window side, W windows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.layers import linear


class SpatialBlock(nn.Module):
    """One pre-norm block of window attention, with a feed-forward network."""

    def __init__(self, width: int, guidance: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width + guidance, width)
        self.key = nn.Linear(width + guidance, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)
        self.norm_network = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def share(self, guidance: Tensor) -> Tensor:
        """What all classes share: (B, h, w, G) -> (B, h * w, 3 C), summands of queries, keys and values."""
        width = self.value.weight.shape[0]
        weight = torch.cat([self.query.weight[:, width:], self.key.weight[:, width:]])  # (2 C, G)
        bias = torch.cat([self.query.bias, self.key.bias])
        shared = linear(self.rolled(guidance, -1).flatten(1, 2), weight, bias)  # (B, h * w, 2 C)
        return torch.cat([shared, self.value.bias.to(shared.dtype).expand(*shared.shape[:2], -1)], dim=2)

    def forward(self, x: Tensor, shared: Tensor, mask: Tensor | None) -> Tensor:
        """(B, K, h, w, C) -> the same shape. shared: from `share`. mask: from `window_mask`, if windows are shifted."""
        grid, width = x.shape[2:4], x.shape[4]
        weight = torch.cat([self.query.weight[:, :width], self.key.weight[:, :width], self.value.weight])  # (3 C, C)
        normed = self.rolled(self.norm_attention(x).flatten(0, 1), -1)  # (N, h, w, C)
        projected = linear(normed.flatten(1, 2), weight).unflatten(0, x.shape[:2])  # (B, K, h * w, 3 C)
        projected = projected.add_(shared[:, None]).flatten(0, 1).unflatten(1, grid)  # (N, h, w, 3 C)
        mixed = self.rolled(self.attend(projected, mask), 1).flatten(1, 2)  # (N, h * w, C)
        x = x.flatten(0, 1).flatten(1, 2)  # (N, h * w, C)
        x = x + linear(mixed, self.projection.weight, self.projection.bias)
        hidden = F.gelu(linear(self.norm_network(x), self.widen.weight, self.widen.bias))  # (N, h * w, 4 C)
        x = x + linear(hidden, self.narrow.weight, self.narrow.bias)
        return x.unflatten(1, grid).unflatten(0, (len(shared), -1))  # (B, K, h, w, C)

    def attend(self, projected: Tensor, mask: Tensor | None) -> Tensor:
        """Queries, keys and values (N, h, w, 3 C) -> (N, h, w, C), each window on its own."""
        count, height, width, _ = projected.shape
        rows, columns = height // self.window, width // self.window
        parts = projected.view(count, rows, self.window, columns, self.window, 3, self.heads, -1)
        parts = parts.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, N, rows, columns, heads, s, s, d)
        query, key, value = parts.reshape(3, count, rows * columns * self.heads, self.window**2, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (N, W * heads, s * s, d)
        mixed = mixed.view(count, rows, columns, self.heads, self.window, self.window, -1)
        return mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, height, width, -1)  # (N, h, w, C)

    def rolled(self, x: Tensor, direction: int) -> Tensor:
        """(N, h, w, C), shifted by half a window."""
        return x.roll((direction * self.shift,) * 2, dims=(1, 2)) if self.shift else x


def window_mask(grid: tuple[int, int], window: int, shift: int, heads: int) -> Tensor:
    """What is added to the scores of shifted windows: (1, W * heads, s * s, s * s), -100 between patches that are no
    neighbours in the image."""
    height, width = grid
    regions = [torch.zeros(length, dtype=torch.long) for length in grid]
    for region, length in zip(regions, grid, strict=True):
        region[length - window : length - shift], region[length - shift :] = 1, 2
    region = 3 * regions[0][:, None] + regions[1]  # (h, w)
    region = region.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    mask = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)  # (W, s * s, s * s)
    return mask.repeat_interleave(heads, dim=0)[None]
