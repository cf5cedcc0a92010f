"""Attention over the patches of all windows of an image, in blocks of rows: no matrix of all pairs is ever in memory.

Shapes: n patches of all windows, r of a block, C the VFM's width, D CLIP's width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.cpu_kernels import linear

BLOCK = 8_000_000  # pairs of patches at a time: several matrices of 32 MB


def blocks(patches: int) -> Iterator[slice]:
    """The patches in blocks of rows."""
    rows = max(1, BLOCK // patches)
    return (slice(first, min(first + rows, patches)) for first in range(0, patches, rows))


def times(rows: Tensor, columns: Tensor) -> Tensor:
    """rows · columnsᵀ: (r, I), (m, I) -> (r, m)."""
    return linear(rows[None], columns)[0]


def proxy_anchors(
    rows: Tensor, patches: Tensor, by_channel: Tensor, similarity: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The proxy anchor of each row: the direction of the mean of all patches that resemble it.

    rows: (r, C), of the patches (n, C), unit vectors; by_channel: the patches once more, (C, n). The set of patches
    with a cosine similarity above `similarity` is found `steps` times, from the anchors so far; a row with an empty set
    is its own anchor. Returns the anchors, (r, C), and the size of the last set, (r, 1).
    """
    anchors, count = rows, torch.ones_like(rows[:, :1])
    for _ in range(steps):
        near = (times(anchors, patches) > similarity).float()  # (r, n)
        count = near.sum(1, keepdim=True)  # (r, 1)
        anchors = torch.where(count > 0, F.normalize(times(near, by_channel), dim=1), rows)  # (r, C)
    return anchors, count.clamp(min=1)


def attention(similarity: Tensor, mean: Tensor, beta: float, gamma: Tensor | float) -> Tensor:
    """Attention of each row to all patches, (r, n), from the similarity of their anchors with these, (r, n).

    mean: of the similarity, (r, 1) or a single number; negative ones count as 0. beta: how many times the mean a
    similarity must be, for a patch to be attended to. gamma: sharpness, (r, 1) or a number. A row without any such
    patch attends to the most similar one.
    """
    logits = (similarity - beta * mean.clamp(min=0)).mul_(gamma)  # (r, n)
    least = logits.amax(1, keepdim=True).clamp_(max=0)  # (r, 1)
    return logits.masked_fill_(logits < least, float("-inf")).softmax(1)
