"""GEM: a second stream beside CLIP's last blocks, in which tokens gather in groups by self-self attention.

Grounding Everything: Emerging Localization Properties in Vision-Language Transformers (Bousselham, Petersen, Ferrari &
Kuehne, CVPR 2024, arXiv:2312.00878). The published code has the MIT licence.

Shapes: B windows of c × c pixels, p the patch size, T tokens (the class token first), D width, d width of a head, E
joint embedding width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import after_attention, heads, join, run_block
from proxyclip.errors import InputError
from proxyclip.methods import _training_free

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """blocks: how many of the last blocks the second stream runs beside (none: half of them, as the paper's 6 of 12).
    iterations: how often queries, keys and values attend to themselves before they attend to the values. sharpness:
    factor of their similarity, the inverse temperature (none: from the tokens of each window, see `sharpness`)."""

    blocks: int | None = None
    iterations: int = 1
    sharpness: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.blocks is not None and self.blocks < 1:
            raise InputError(f"blocks is {self.blocks}; choose a number of last blocks, at least 1")
        if not 0 <= self.iterations <= 100:
            raise InputError(f"iterations is {self.iterations}; choose a number from 0 to 100")
        if self.sharpness is not None and not self.sharpness > 0:
            raise InputError(f"sharpness is {self.sharpness}; it must be positive")


class GEM(_training_free.TrainingFree):
    """Each of the last blocks adds its self-self attention to the second stream, and CLIP's own stream runs on."""

    method = "GEM"

    @classmethod
    def check(cls, options: Options, depth: int, patch_size: int) -> None:
        if (options.blocks or 1) > depth:
            raise InputError(f"blocks is {options.blocks}, but this CLIP has {depth}; choose at most {depth}")

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        for dense, _ in self.streams(crops):
            last = dense
        return self.clip.finish(last[:, 1:]).mT.unflatten(2, self.clip.grid(crops))  # (B, E, c/p, c/p)

    def streams(self, crops: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, 3, c, c) -> after each of the last blocks the second stream, with the tokens that entered the block; both
        (B, T, D). Both streams begin with the same tokens, and the second has no feed-forward network."""
        blocks, iterations, given = self.clip.blocks, self.options.iterations, self.options.sharpness
        first = len(blocks) - (self.options.blocks or (len(blocks) + 1) // 2)
        tokens = self.clip.embed(crops, offset=None, antialias=True)
        for block in blocks[:first]:
            tokens = run_block(block, tokens)
        dense = tokens
        for block in blocks[first:]:
            query, key, value = heads(block, tokens)  # (B, heads, T, d) each
            factor = given or sharpness(block.ln_1(tokens), query.shape[-1])
            mixed = self_self_attention(query, key, value, factor, iterations)  # (B, heads, T, d)
            dense = dense + block.ls_1(join(block, mixed))
            yield dense, tokens
            if block is not blocks[-1]:
                tokens = after_attention(block, tokens, F.scaled_dot_product_attention(query, key, value))


def sharpness(normed: Tensor, head_width: int) -> Tensor:
    """The mean norm of the tokens (B, T, D) after a block's first norm, over √d: (B, 1, 1, 1)."""
    return normed.norm(dim=2).mean(1)[:, None, None, None] * head_width**-0.5


def self_self_attention(query: Tensor, key: Tensor, value: Tensor, factor: Tensor | float, iterations: int) -> Tensor:
    """The mean of the values (B, heads, T, d) as mixed by the similarity of values, of keys and of queries.

    Each is brought to unit length and attends to itself so many times, which draws similar ones together. factor: of
    the similarity, (B, 1, 1, 1) or one number.
    """
    mixed = 0
    for vectors in (value, key, query):
        vectors = F.normalize(vectors, dim=-1)
        for _ in range(iterations):
            vectors = F.normalize(F.scaled_dot_product_attention(vectors * factor, vectors, vectors, scale=1.0), dim=-1)
        mixed = mixed + F.scaled_dot_product_attention(vectors * factor, vectors, value, scale=1.0)
    return mixed / 3


Method = GEM
