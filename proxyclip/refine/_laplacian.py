"""Linear equations on the pixels of a grid, of which each one is joined to its neighbours.

Shapes: Q queries, h × w the grid.
"""

from typing import NamedTuple

from torch import Tensor


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
