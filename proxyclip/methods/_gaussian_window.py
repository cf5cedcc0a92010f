"""NACLIP's neighbourhood: a Gaussian window around every patch, added to the logits of an attention.

Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation (Hajimiri, Ben Ayed & Dolz, WACV
2025, arXiv:2404.08181). The published code has the MIT licence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def omega(rows: int, columns: int, std: float, device: torch.device | None = None) -> Tensor:
    """(T, T) float32, T = 1 + rows * columns: exp(-distance² / 2 std²) between patches, 0 from and to the class token.

    std: width of the window, in patches. In half precision it is rounded to about 1/500, like the logits.
    """
    return F.pad(torch.kron(gaussian(rows, std, device), gaussian(columns, std, device)), (1, 0, 1, 0))


def gaussian(length: int, std: float, device: torch.device | None) -> Tensor:
    """(length, length): exp(-(i - j)² / 2 std²)."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    return torch.exp(-((places[:, None] - places) ** 2) / (2 * std**2))
