"""PAMR, pixel-adaptive mask refinement: every pixel takes the scores of the neighbours that look like it.

Single-Stage Semantic Segmentation from Image Labels (Araslanov & Roth, CVPR 2020, arXiv:2005.08104), section 4.3,
with the dilations of NACLIP and SCLIP; the paper's are 1, 2, 4, 8, 12 and 24.

Shapes: H × W the label map, N neighbours of a pixel, q queries.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip import refine
from proxyclip.errors import InputError
from proxyclip.refine import Guide, Maps

SHARPNESS = 0.1  # of the weights, in units of the standard deviation around a pixel
LARGEST = 100_000  # pixels, of a dilation


@dataclass(frozen=True)
class Options:
    """steps: how often the maps are refined. dilations: distances in pixels of the 8 neighbours each."""

    steps: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self):
        if not 1 <= self.steps <= 1000:
            raise InputError(f"steps is {self.steps}; choose a number from 1 to 1000")
        if not self.dilations or not all(1 <= dilation <= LARGEST for dilation in self.dilations):
            raise InputError(f"dilations are {self.dilations}; choose one or several distances of at least 1 pixel")


class PAMR(refine.Refinement):
    """Every step replaces a pixel's score by the weighted sum of its neighbours' scores, with the same weights for all
    queries."""

    def __call__(self, maps: Maps, guide: Guide) -> Maps:
        index = neighbours(*guide.image.shape[-2:], self.options.dilations, guide.image.device)  # (H * W, N)
        weights = affinity(guide.image, index, len(self.options.dilations))  # (H * W, N)

        def refined(queries: slice) -> Tensor:
            found = maps(queries)  # (q, H, W)
            pixels = found.flatten(1).T.contiguous()  # (H * W, q)
            for _ in range(self.options.steps):
                pixels = F.embedding_bag(index, pixels, per_sample_weights=weights, mode="sum")  # (H * W, q)
            return pixels.T.unflatten(1, found.shape[1:])  # (q, H, W)

        return refined


def neighbours(height: int, width: int, dilations: tuple[int, ...], device: torch.device) -> Tensor:
    """(H * W, N) int32: the index of each pixel's neighbours, by dilation, row by row. Pixels beyond the border are
    those at the border."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    found = []
    for dilation in dilations:
        for down in (-dilation, 0, dilation):
            for right in (-dilation, 0, dilation):
                if down or right:
                    y, x = (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)
                    found.append((y[:, None] * width + x).flatten().int())  # (H * W,)
    return torch.stack(found, dim=1)


def affinity(image: Tensor, index: Tensor, dilations: int) -> Tensor:
    """The weights of the neighbours: (3, H, W) and (H * W, N) -> (H * W, N), each row with the sum 1.

    The standard deviation is that of the neighbours and, once per dilation, the pixel itself. The range of the image's
    values does not matter.
    """
    pixels = image.float().flatten(1)  # (3, H * W)
    values = index.shape[1] + dilations
    mean = sum((pixels[:, near] for near in index.T), dilations * pixels) / values  # (3, H * W)
    squares = sum(((pixels[:, near] - mean) ** 2 for near in index.T), dilations * (pixels - mean) ** 2)
    width = SHARPNESS * (squares / (values - 1)).sqrt() + 1e-8  # (3, H * W)
    distances = [((pixels - pixels[:, near]).abs() / width).mean(0) for near in index.T]  # N of (H * W,)
    return torch.stack(distances, dim=1).neg_().softmax(1)


Refinement = PAMR
