"""Normalisation of images with the mean and standard deviation of a model."""

import math

import torch
from torch import Tensor, nn

from proxyclip.errors import InputError


class Normalise(nn.Module):
    """Subtracts `mean` and divides by `std`, three numbers each in RGB order.

    The statistics move with the model, so a forward pass copies nothing from the host. They stay in float32 when the
    model is cast to half precision, and are not part of its state dict, so checkpoints and fingerprints do not include
    them.
    """

    def __init__(self, mean, std):
        super().__init__()
        try:
            self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        except (TypeError, ValueError):
            raise InputError(f"mean {mean!r} and std {std!r} must be three numbers each") from None
        finite = all(map(math.isfinite, self.mean + self.std))
        if not (len(self.mean) == len(self.std) == 3 and finite and min(self.std) > 0):
            raise InputError(f"mean {mean!r} and std {std!r} must be three finite numbers each, those of std positive")
        self.register_buffer("constants", self.on(torch.device("cpu")), persistent=False)

    def on(self, device: torch.device) -> Tensor:
        """Mean and std on a device, (2, 3, 1, 1)."""
        return torch.tensor([self.mean, self.std], dtype=torch.float32, device=device)[..., None, None]

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.constants = self.on(self.constants.device)  # a cast to half precision would have rounded them
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> the same shape, float32, normalised."""
        mean, std = self.constants
        return (images.float() - mean) / std
