"""QuickGELU, x · σ(1.702 x): OpenAI's activation function, in one allocation, and with one tensor kept for training.

Composed of PyTorch's operations it allocates three, which for the hidden layers of a transformer takes more time than
the arithmetic, and keeps two.
"""

import torch
from torch import Tensor, nn

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
