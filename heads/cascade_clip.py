"""Cascade-CLIP: features of several blocks of CLIP, in groups, each group with a decoder of its own.

Li et al., Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for Zero-Shot Semantic Segmentation, ICML 2024.

Shapes: B images, K classes, E joint embedding width, D width, h × w patches, L intermediate levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.mask_decoder import MaskDecoder, RelationshipDescriptor
from heads.prompted_encoder import PromptedHead, PromptedOptions
from proxyclip.errors import InputError


@dataclass(frozen=True)
class Options(PromptedOptions):
    """Settings of Cascade-CLIP.

    levels: blocks, counted from 0, whose patch tokens are used besides those of the last block, from early to late; in
    groups of `group_size` with one decoder each, and one more decoder for the last block. layer_projection: how tokens
    of these blocks reach the joint embedding space. "official": by a random projection that is never trained, as in the
    published runs; "clip": by CLIP's own last norm and projection.
    """

    levels: tuple[int, ...] = (5, 6, 7, 8, 9, 10)
    group_size: int = 3
    layer_projection: Literal["official", "clip"] = "official"

    def __post_init__(self):
        super().__post_init__()
        if list(self.levels) != sorted(set(self.levels)) or not self.levels or self.levels[0] < 0:
            raise InputError(f"levels is {self.levels}; name different blocks in ascending order, counted from 0")
        if self.group_size < 1 or len(self.levels) % self.group_size:
            raise InputError(f"group_size {self.group_size} does not divide the {len(self.levels)} levels")
        if self.prompt_blocks is not None and self.prompt_blocks < 1:
            raise InputError(f"prompt_blocks is {self.prompt_blocks}; this head needs prompts in several blocks")


class Head(PromptedHead):
    """The sum of the masks of several decoders, each on a weighted sum of features of neighbouring blocks."""

    method = "Cascade-CLIP"

    def __init__(self, clip, options: Options, classes, seen, known_words=None):
        super().__init__(clip, options, classes, seen, known_words)
        visual, count = clip.visual, len(options.levels)
        (width, joint), depth = visual.proj.shape, len(visual.transformer.resblocks)
        if options.levels[-1] >= depth - 1:
            raise InputError(f"levels is {options.levels}, but the last of this CLIP's {depth} blocks is always used")
        groups = count // options.group_size
        self.level_norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(count)]).requires_grad_(False)
        projection = torch.randn(count, width, joint) * width**-0.5  # (L, D, E)
        if options.layer_projection == "clip":
            projection = visual.proj.detach().expand(count, -1, -1).clone()
            for norm in self.level_norms:
                norm.load_state_dict(visual.ln_post.state_dict())
        self.level_projections = nn.Parameter(projection, requires_grad=False)
        # A bell curve over the blocks of a group that ends at its last block (equation 5); trained from there.
        distance = torch.arange(options.group_size - 1, -1, -1.0)
        self.weights = nn.Parameter((-distance.square() / 2).exp().repeat(groups, 1))  # (groups, group_size)
        self.descriptors = nn.ModuleList([RelationshipDescriptor(joint) for _ in range(groups + 1)])
        sizes = {"layers": options.decoder_layers, "heads": options.decoder_heads, "dropout": options.dropout}
        self.decoders = nn.ModuleList([MaskDecoder(joint, **sizes) for _ in range(groups + 1)])

    @staticmethod
    def sizes(weights: Mapping[str, Tensor]) -> dict:
        return PromptedHead.sizes(weights) | {"group_size": weights["weights"].shape[1]}

    def logits(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1], (K, E) -> {"decode": (B, K, h, w)}."""
        encoded = self.encoder(self.clip.visual, images, self.options.levels)
        return {"decode": self.decode((*self.features(encoded), encoded.patches), encoded.image, text)}

    def features(self, encoded) -> list[Tensor]:
        """Unit vectors (B, E, h, w) of the patches after each of the levels, early ones first."""
        grid = encoded.patches.shape[-2:]
        projected = [
            norm(tokens) @ projection  # (B, h * w, E)
            for tokens, norm, projection in zip(encoded.levels, self.level_norms, self.level_projections, strict=True)
        ]
        return [F.normalize(tokens.float(), dim=-1).mT.unflatten(2, grid) for tokens in projected]

    def decode(self, features: tuple[Tensor, ...], image: Tensor, text: Tensor) -> Tensor:
        """Unit vectors: of all levels and the last block (B, E, h, w) each, (B, E) and (K, E) -> (B, K, h, w)."""
        *levels, last = features
        levels = torch.stack(levels).unflatten(0, self.weights.shape)  # (groups, group_size, B, E, h, w)
        memories = [*torch.einsum("gs,gsbehw->gbehw", self.weights, levels), last]  # (B, E, h, w) each
        masks = [
            decoder(descriptor(image, text), memory.flatten(2).mT)  # (B, K, h * w)
            for decoder, descriptor, memory in zip(self.decoders, self.descriptors, memories, strict=True)
        ]
        return torch.stack(masks).sum(0).unflatten(2, last.shape[-2:])
