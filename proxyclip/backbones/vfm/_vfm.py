"""Shared by all families: the facts about a variant, the options, and the base class."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.normalise import Normalise
from proxyclip.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """One set of published weights: its name in timm, number of parameters of the image encoder, and licence."""

    architecture: str
    parameters: int
    licence: str

    @property
    def repository(self) -> str:
        """Where the weights are, on the Hugging Face hub."""
        return f"timm/{self.architecture}"

    @property
    def megabytes(self) -> float:
        """The size of a download: every parameter in float32."""
        return self.parameters * 4 / 1e6


@dataclass(frozen=True)
class Options:
    """Options of `proxyclip.backbones.vfm.load`; a family uses those that apply to it."""

    features: str = "tokens"
    layer: int | None = None
    window: int = 336


class VFM(nn.Module):
    """An image encoder with the mean and standard deviation of its training data; families define `forward`."""

    name = ""

    def __init__(self, patch_size: int, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.patch_size, self.normalise = patch_size, Normalise(mean, std)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean colour of the training data."""
        return self.normalise.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the training data."""
        return self.normalise.std

    def prepare(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """RGB in [0, 1] -> normalised and stretched to `size`, both in float32, then in the weights' type."""
        images = self.normalise(images)  # (B, 3, H, W)
        if size is not None and images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear")  # (B, 3, *size)
        return images.to(next(self.parameters()).dtype)


def first_blocks(blocks, layer: int | None):
    """The blocks up to number `layer`, counted from 1; all for None."""
    if layer is not None and not 1 <= layer <= len(blocks):
        raise InputError(f"layer {layer} does not exist: the model has layers 1 to {len(blocks)}")
    return blocks[:layer]
