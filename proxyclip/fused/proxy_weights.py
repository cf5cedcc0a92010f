"""The weights of proxy attention in one pass over the similarities.

Shapes: b windows, r rows of a block, N patches of a window.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 1024  # that a program reads at a time


def weigh(
    similarity: Tensor, scale: Tensor, least: Tensor, gamma: float, first: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights (b, r, N) in `dtype` and their sums (b, r, 1) float32.

    similarity: (b, r, N) float32, the inner products of patches `first` to `first + r` with all N. scale: (b, N, 1),
    the reciprocal of their lengths, 0 for patches without features. least: (b, 1, 1), below which a weight is 0.
    """
    windows, rows, patches = similarity.shape
    weights = torch.empty_like(similarity, dtype=dtype)
    total = similarity.new_empty(windows, rows, 1)
    given = similarity, scale.contiguous(), least.contiguous(), weights, total, gamma, first, patches, COLUMNS
    with torch.cuda.device_of(similarity):  # Triton launches on the current device
        weigh_row[rows, windows](*given)
    return weights, total


@triton.jit
def weigh_row(similarity, scale, least, weights, total, gamma, first, patches, COLUMNS: tl.constexpr):
    """One row of one window. The sum is that of the weights as they are stored."""
    row, rows, window = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    start = (window * rows + row) * patches
    scales = scale + window * patches
    own_scale, threshold = tl.load(scales + first + row), tl.load(least + window)
    own = (own_scale > 0).to(tl.float32)
    sums = tl.zeros((COLUMNS,), tl.float32)
    for left in range(0, patches, COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        inside = column < patches
        product = tl.load(similarity + start + column, mask=inside, other=0.0)
        cosine = product * own_scale * tl.load(scales + column, mask=inside, other=0.0)
        weight = tl.exp(tl.minimum(cosine - own, 0.0) * gamma)
        weight = tl.where(cosine < threshold, 0.0, weight)
        weight = tl.where(column == first + row, 1.0, weight).to(weights.dtype.element_ty)
        tl.store(weights + start + column, weight, mask=inside)
        sums += tl.where(inside, weight.to(tl.float32), 0.0)
    tl.store(total + window * rows + row, tl.sum(sums, 0))
