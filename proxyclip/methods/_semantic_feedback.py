"""The semantic feedback of ResCLIP: which patches belong together, from the labels of a first pass.

Patches of one label do; where the straight line between them leaves the label, the less the farther apart they are.

Shapes: H × W the image, h × w its patches, N = h * w, T = 1 + N tokens (the class token first), Q labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.bounded_cache import BoundedCache

_lines = BoundedCache(32 * 2**20, lambda made: sum(part.nbytes for part in made))


def patch_labels(labels: Tensor, patch_size: int, queries: int) -> Tensor:
    """The most frequent label in each patch, the smallest on ties: (H, W) int64 below `queries` -> (h, w).

    Pixels beyond the last whole patch are ignored.
    """
    height, width = (length // patch_size * patch_size for length in labels.shape)
    patches = labels[:height, :width].unfold(0, patch_size, patch_size).unfold(1, patch_size, patch_size)
    pixels = patches.flatten(2).flatten(0, 1)  # (N, pixels of a patch)
    votes = torch.zeros(len(pixels), queries, device=labels.device)  # (N, Q)
    votes.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=votes.dtype))
    return votes.argmax(1).unflatten(0, patches.shape[:2])  # (h, w)


def affinity(labels: Tensor, std: float, path_rule: bool) -> Tensor:
    """G, how much of its attention each patch gives to which other: labels (h, w) -> (T, T), rows sum to 1.

    The class token has a row and a column of zeros. std: of the Gaussian that rows are smoothed with. path_rule:
    whether it matters if the line between two patches leaves their label.
    """
    smooth = smoothed(agreement(labels, path_rule), std)  # (N, N)
    return F.pad(smooth / (smooth.sum(1, keepdim=True) + 1e-8), (1, 0, 1, 0))  # (T, T)


def agreement(labels: Tensor, path_rule: bool) -> Tensor:
    """(h, w) -> (N, N): 1 for patches of one label, less where the line from the first to the second leaves it."""
    flat = labels.flatten()  # (N,)
    same = (flat[:, None] == flat).float()  # (N, N)
    if not path_rule:
        return same
    rows, columns = labels.shape
    farthest = max(rows, columns, 2) - 1
    distant = torch.exp(-distances(rows, columns, labels.device) / farthest)  # (h, w, h, w)
    return same * torch.where(unbroken(labels), 1.0, distant).flatten(2).flatten(0, 1)  # (N, N)


def unbroken(labels: Tensor) -> Tensor:
    """Whether all patches on the line from a patch to another have the label of the first: (h, w) -> (h, w, h, w).

    Not symmetric, and not quite to the end: like the published code, whose scores depend on it, this walks every line
    at the pace of the longest line of the grid and stops after as many steps as the line itself needs.
    """
    rows, columns = labels.shape
    down, across = lines(rows, columns, labels.device)  # (steps, h, h), (steps, w, w)
    length = distances(rows, columns, labels.device)  # (h, w, h, w)
    found = torch.ones_like(length, dtype=torch.bool)
    for step in range(len(down)):
        point = labels[down[step][:, None, :, None], across[step][None, :, None, :]]  # (h, w, h, w)
        found &= (point == labels[:, :, None, None]) | (length < step)
    return found


def lines(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The row, (steps, h, h), and the column, (steps, w, w), of the point that is reached after each number of steps on
    the way from one row or column to another."""

    def make() -> tuple[Tensor, Tensor]:
        # On the host, so that points halfway between two patches go to the same one on every device.
        share = torch.linspace(0, 1, max(rows, columns))[:, None, None]  # (steps, 1, 1)
        places = (torch.arange(length, dtype=torch.float32) for length in (rows, columns))
        points = [place[:, None] * (1 - share) + place * share for place in places]
        return tuple(point.round().long().to(device) for point in points)

    return _lines.get((rows, columns, device), make)


def distances(rows: int, columns: int, device: torch.device) -> Tensor:
    """(h, w, h, w): steps from each patch to each other, along rows, columns and diagonals."""
    places = (torch.arange(length, device=device) for length in (rows, columns))
    down, across = ((place[:, None] - place).abs() for place in places)  # (h, h), (w, w)
    return torch.maximum(down[:, None, :, None], across[None, :, None, :])


def smoothed(matrix: Tensor, std: float) -> Tensor:
    """Each row (N, N) after a Gaussian of at most 6 std along it.

    Patches are in row order there, as in the published code: the last of a row and the first of the next one are
    neighbours.
    """
    taps = min(len(matrix), int(6 * std + 1)) // 2 * 2 + 1  # odd
    place = torch.arange(taps, device=matrix.device, dtype=torch.float32) - taps // 2
    kernel = torch.exp(-(place**2) / (2 * std**2))  # (taps,)
    return F.conv1d(matrix[:, None], (kernel / kernel.sum())[None, None], padding=taps // 2)[:, 0]  # (N, N)
