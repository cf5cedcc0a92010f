"""NACLIP: in CLIP's last block, patches attend to those with similar keys, and to their neighbours.

Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation (Hajimiri, Ben Ayed & Dolz, WACV
2025, arXiv:2404.08181). The published code has the MIT licence.

Shapes: B windows of c × c pixels, p the patch size, T tokens (the class token first), D width, E joint embedding width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import heads, join, run_network
from proxyclip.errors import InputError
from proxyclip.methods import _training_free

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """std: width of the neighbourhood, in patches; 0: attention by similarity alone. residual: whether the residual
    connections and the feed-forward network stay (the paper's "vanilla" architecture)."""

    std: float = 5.0
    residual: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.std < 0:
            raise InputError(f"std is {self.std}; choose the width of a neighbourhood in patches, or 0 for none")


class NACLIP(_training_free.TrainingFree):
    """The attention output alone: no residual connection and no feed-forward network."""

    method = "NACLIP"

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        block, tokens = self.clip.blocks[-1], self.clip.before_last_block(crops)  # (B, T, D)
        _, key, value = heads(block, tokens)  # (B, heads, T, d) each
        grid, std = self.clip.grid(crops), self.options.std
        near = omega(*grid, std, tokens.device).to(tokens.dtype) if std else None  # (T, T)
        attended = join(block, F.scaled_dot_product_attention(key, key, value, attn_mask=near))  # (B, T, D)
        if self.options.residual:
            attended = run_network(block, tokens + block.ls_1(attended))
        return self.clip.finish(attended[:, 1:]).mT.unflatten(2, grid)  # (B, E, c/p, c/p)


def omega(rows: int, columns: int, std: float, device: torch.device | None = None) -> Tensor:
    """(T, T) float32, T = 1 + rows * columns: exp(-distance² / 2 std²) between patches, 0 from and to the class token.

    std: width of the window, in patches. In half precision it is rounded to about 1/500, like the logits.
    """
    return F.pad(torch.kron(gaussian(rows, std, device), gaussian(columns, std, device)), (1, 0, 1, 0))


def gaussian(length: int, std: float, device: torch.device | None) -> Tensor:
    """(length, length): exp(-(i - j)² / 2 std²)."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    return torch.exp(-((places[:, None] - places) ** 2) / (2 * std**2))


Method = NACLIP
