"""TLP, text-aware Laplacian propagation: scores spread between neighbouring pixels that look alike, from where they are
clear to where they are not.

PEARL: Geometry Aligns Semantics for Training-Free Open-Vocabulary Semantic Segmentation (Pei et al., CVPR 2026,
arXiv:2603.21528). The published code has no licence; written from the paper.

Shapes: Q queries, q of a block, H × W the label map, h × w the pooled grid, E joint embedding width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip import refine
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.refine import Guide, Maps

BLOCK = 8_000_000  # scores at full size that are pooled at a time
LEAST = 0.05  # of a pixel's confidence
# Luminance of images that are normalised by the standard deviations of CLIP's training data. The means do not matter:
# edges depend on differences, relative to the mean difference.
GREY = (0.299 / 0.26862954, 0.587 / 0.26130258, 0.114 / 0.27577711)


@dataclass(frozen=True)
class Options:
    """grid: about how many rows and columns scores are pooled to. tau: temperature of the similarity between queries.
    boost: added to that of each query with itself. ke: how much edges in the image count. steps: conjugate-gradient
    steps; they stop before convergence, on purpose."""

    grid: int = 80
    tau: float = 0.5
    boost: float = 10.0
    ke: float = 5.0
    steps: int = 25

    def __post_init__(self):
        if not 1 <= self.grid <= 1000:
            raise InputError(f"grid is {self.grid}; choose a number of rows and columns from 1 to 1000")
        if not 1 <= self.steps <= 1000:
            raise InputError(f"steps is {self.steps}; choose a number from 1 to 1000")
        if not (self.tau > 0 and self.boost >= 0 and self.ke >= 0):
            raise InputError(
                f"tau is {self.tau}, boost {self.boost} and ke {self.ke}; tau must be positive, the others not negative"
            )


class Laplacian(NamedTuple):
    """The matrix C + L, with C diagonal and L the Laplacian of the grid: symmetric, and positive if C is.

    confidence: (h, w), the diagonal of C. across: (h, w - 1), weights of the edges between columns. down: (h - 1, w),
    of those between rows.
    """

    confidence: Tensor
    across: Tensor
    down: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """The product with maps (Q, h, w)."""
        result = self.confidence * maps
        flow = self.across * maps.diff(dim=2)  # (Q, h, w - 1)
        result[:, :, 1:] += flow
        result[:, :, :-1] -= flow
        flow = self.down * maps.diff(dim=1)  # (Q, h - 1, w)
        result[:, 1:] += flow
        result[:, :-1] -= flow
        return result

    def solve(self, maps: Tensor, steps: int) -> Tensor:
        """(C + L) F = C · maps, by conjugate gradients from F = maps: (Q, h, w) -> (Q, h, w).

        One step length serves all queries, and there are always as many steps as given.
        """
        solution = maps
        residual = self.confidence * maps - self(maps)
        direction, length = residual, dot(residual, residual)
        for _ in range(steps):
            product = self(direction)
            step = length / (dot(direction, product) + 1e-12)
            solution = solution + step * direction
            residual = residual - step * product
            previous, length = length, dot(residual, residual)
            direction = residual + length / (previous + 1e-12) * direction
        return solution


class TLP(refine.Refinement):
    """On a coarse grid, solves (C + L) F = C · scores, with C the confidence of each pixel and L the Laplacian of the
    grid, whose edges are weak between pixels that differ in the image and strong between those that agree in class."""

    def __call__(self, maps: Maps, guide: Guide) -> Maps:
        size = guide.image.shape[-2:]
        with exact_float32(guide.image.device):
            small = self.pooled(maps, guide.queries, size)  # (Q, h, w)
            solution = self.system(small, guide).solve(small, self.options.steps)  # (Q, h, w)
        return lambda queries: F.interpolate(solution[None, queries], size, mode="bilinear")[0]  # (q, H, W)

    def pooled(self, maps: Maps, queries: int, size: tuple[int, int]) -> Tensor:
        """(Q, h, w): all maps, averaged over cells, a few at a time."""
        block = max(1, BLOCK // (size[0] * size[1]))
        return torch.cat([self.pool(maps(slice(first, first + block))) for first in range(0, queries, block)])

    def pool(self, maps: Tensor) -> Tensor:
        """(q, H, W) -> (q, h, w). Sides of cells are rounded, halves to even; rows and columns beyond the last whole
        cell are dropped, and the result is stretched over them, as in the published code."""
        cell = [max(1, round(length / self.options.grid)) for length in maps.shape[-2:]]
        return F.avg_pool2d(maps.float(), cell)

    def system(self, small: Tensor, guide: Guide) -> Laplacian:
        """The equations of one image, from its pooled scores (Q, h, w)."""
        probabilities = small.softmax(0)  # (Q, h, w)
        trust = torch.zeros(len(small), 1, 1, device=small.device)  # (Q, 1, 1): without text no query agrees
        if guide.text is not None:
            trust = similarity(guide.text, self.options).diagonal()[:, None, None]  # (Q, 1, 1)
        clear = probabilities.amax(0).clamp(min=LEAST) ** 2  # (h, w)
        confidence = clear * (1 + agreement(probabilities, probabilities, trust))  # (h, w)
        grey, ke = self.grey(guide.image), self.options.ke  # (h, w)
        across = edge_weights(grey, self.scale(grey), probabilities, trust, ke)  # (h, w - 1)
        down = edge_weights(grey.mT, self.scale(grey.mT), probabilities.mT, trust, ke).mT  # (h - 1, w)
        return Laplacian(confidence, across, down)

    def grey(self, image: Tensor) -> Tensor:
        """(3, H, W) -> (h, w)."""
        grey = sum(weight * channel for weight, channel in zip(GREY, image.float(), strict=True))  # (H, W)
        return self.pool(grey[None])[0]

    def scale(self, grey: Tensor) -> Tensor:
        """The mean difference between columns of (h, w). The published code takes that of all images of a batch."""
        return grey.diff(dim=1).abs().mean()


def similarity(text: Tensor, options: Options) -> Tensor:
    """(Q, E) -> (Q, Q), of queries with each other; each row sums to almost 1."""
    unit = F.normalize(text.float(), dim=1)
    found = (unit @ unit.T / options.tau).softmax(1) + options.boost * torch.eye(len(unit), device=unit.device)
    return found / (found.sum(1, keepdim=True) + 1e-6)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum over all queries and pixels; a tensor, so that an accelerator is not waited for."""
    return (a * b).sum()


def edge_weights(grey: Tensor, scale: Tensor, probabilities: Tensor, trust: Tensor, ke: float) -> Tensor:
    """Weights of the edges between columns, (h, w - 1), from 0 to 1.

    grey: (h, w). scale: of differences in grey, a single number. probabilities: (Q, h, w). trust: (Q, 1, 1), how much
    it counts that two pixels agree in a query.
    """
    similar = (-ke * grey.diff(dim=1).abs() / (scale + 1e-6)).exp()  # (h, w - 1)
    return (similar * (1 + agreement(probabilities[..., :-1], probabilities[..., 1:], trust))).clamp(0, 1)


def agreement(a: Tensor, b: Tensor, trust: Tensor) -> Tensor:
    """How much two pixels agree in class: probabilities (Q, h, w) of both -> (h, w), from 0 to 1."""
    return (a * b * trust).sum(0).clamp(0, 1)


Refinement = TLP
