"""Computing a function of a large tensor in parts."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, dim: int, at_a_time: int) -> Tensor:
    """The function of x, without gradients for `at_a_time` entries of a dimension at a time.

    The function must treat them independently, and keep the dimension.
    """
    if torch.is_grad_enabled() or x.shape[dim] <= at_a_time:
        return function(x)
    return torch.cat([function(part) for part in x.split(at_a_time, dim=dim)], dim=dim)
