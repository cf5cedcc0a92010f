"""The anomalous tokens of SC-CLIP: patches that resemble no others, and what replaces them.

Shapes: B windows of h × w patches, N = h * w, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def outlier_scores(tokens: Tensor, neighbours: int) -> Tensor:
    """How lonely each patch is, by the local outlier factor in its simple form: (B, N, D) float32 -> (B, N).

    The squared distance to the last of its nearest neighbours, divided by the harmonic mean of theirs.
    """
    centred = tokens - tokens.mean(1, keepdim=True)  # differences of large numbers would not be exact
    products = centred @ centred.mT  # (B, N, N)
    squares = products.diagonal(dim1=1, dim2=2)  # (B, N)
    distances = squares[:, :, None] + squares[:, None] - 2 * products  # (B, N, N)
    distances.diagonal(dim1=1, dim2=2).fill_(math.inf)  # no patch is its own neighbour
    nearest = distances.topk(neighbours, largest=False)  # (B, N, neighbours) each, in ascending order
    reach = nearest.values[:, :, -1].clamp(min=1e-12)  # (B, N): patches may coincide
    theirs = reach.gather(1, nearest.indices.flatten(1)).unflatten(1, nearest.indices.shape[1:])
    return reach * (1 / theirs).mean(2)


def highest(scores: Tensor, share: float) -> Tensor:
    """Which scores are strictly above the quantile 1 - share of their window: (B, N) -> (B, N) bool.

    The quantile lies between two neighbouring scores or on the lower one, so the lower one decides. If the rank is a
    whole number, as in grids of 9 × 9, 11 × 11 or 21 × 21 patches at a share of 0.05, it must not be rounded down.
    """
    rank = math.floor(round((1 - share) * (scores.shape[1] - 1), 6))
    return scores > scores.kthvalue(rank + 1, dim=1, keepdim=True).values


def repaired(tokens: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Outliers replaced by the mean of their 8 neighbours in the grid, without those that are outliers themselves.

    (B, N, D) float32, (B, N) bool -> (B, N, D). A patch that is left with no neighbour stays as it is.
    """
    sound = (~outliers).to(tokens.dtype)[:, None].unflatten(2, grid)  # (B, 1, h, w)
    maps = tokens.mT.unflatten(2, grid) * sound  # (B, D, h, w)
    count = F.avg_pool2d(sound, 3, stride=1, padding=1)  # (B, 1, h, w), of 9 patches, like the sum
    mean = F.avg_pool2d(maps, 3, stride=1, padding=1) / count.clamp(min=0.1)  # (B, D, h, w)
    replace = outliers & (count.flatten(1) > 0)  # (B, N)
    return torch.where(replace[:, :, None], mean.flatten(2).mT, tokens)
