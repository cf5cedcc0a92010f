"""What ZegCLIP, OTSeg and Cascade-CLIP share: CLIP's frozen image encoder with learned prompt tokens.

Visual prompt tuning (Jia et al., 2022, §3.2) in the form of ZegCLIP (Zhou et al., 2023, §3.3). The blocks are those of
`proxyclip.backbones.clip`; only how tokens are embedded differs.

Shapes: B images, h * w patches, P prompts, T = 1 + P + h * w tokens (class token, prompts, patches), D width, E joint
embedding width, N blocks with prompts of their own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heads.head import Options, TrainableHead, check_least
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise, run_block
from proxyclip.errors import InputError


@dataclass(frozen=True)
class PromptedOptions(Options):
    """Settings of the heads that train prompts in a frozen CLIP.

    The position table and the predictions of a window have the resolution of image_size. prompts: learned tokens per
    block. prompt_blocks: further blocks that get prompts of their own after the first one (None: all others; 0: only
    the first, and its prompts are kept; -n: the last n blocks only). decoder_layers, decoder_heads: of the mask
    decoder. dropout: in prompts and decoder, while training.
    """

    prompts: int = 100
    prompt_blocks: int | None = None
    decoder_layers: int = 3
    decoder_heads: int = 8
    dropout: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_least(self, prompts=1, decoder_layers=1, decoder_heads=1)
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; choose a probability of at least 0 and below 1")


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, not CLIP's, in all published runs


class Encoded(NamedTuple):
    """patches: unit vectors (B, E, h, w). image: unit vector (B, E). levels: patch tokens (B, h * w, D) after the
    blocks asked for, normalised by `norm`."""

    patches: Tensor
    image: Tensor
    levels: tuple[Tensor, ...]


class PromptedEncoder(nn.Module):
    """The trained part of the encoder: prompts, their projection, and a norm after the last block.

    CLIP's image tower is an argument of `forward`: its weights are not this module's. checkpointing: whether
    activations of a block are computed again in the backward pass instead of kept.
    """

    def __init__(self, visual: nn.Module, prompts: int, prompt_blocks: int | None, dropout: float, image_size: int):
        """prompts, prompt_blocks, dropout, image_size: see `heads.head.Options`."""
        super().__init__()
        depth, width = len(visual.transformer.resblocks), visual.class_embedding.shape[0]
        further = depth - 1 if prompt_blocks is None else prompt_blocks
        if not -depth <= further < depth:
            raise InputError(f"prompt_blocks is {further}; choose at most {depth - 1}: this CLIP has {depth} blocks")
        self.first = depth + further if further < 0 else 0  # the first block that sees prompts
        self.keep = further == 0
        self.patch_size = visual.patch_size[0]
        if image_size < self.patch_size:
            raise InputError(f"image_size {image_size} is smaller than one patch of {self.patch_size} pixels")
        self.grid = image_size // self.patch_size  # side of the position table that training starts from
        self.normalise = Normalise(MEAN, STD)
        self.prompts = nn.Parameter(torch.empty(-further if further < 0 else further + 1, prompts, width))  # (N, P, D)
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6) if further else None
        self.checkpointing = False
        bound = (6 / (3 * self.patch_size**2 + width)) ** 0.5
        nn.init.uniform_(self.prompts, -bound, bound)
        nn.init.kaiming_normal_(self.projection.weight, mode="fan_out")

    def forward(self, visual: nn.Module, images: Tensor, levels: tuple[int, ...] = ()) -> Encoded:
        """(B, 3, H, W) RGB in [0, 1] -> patch and image embeddings. levels: blocks, counted from 0, whose patch tokens
        are returned as well."""
        height, width = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        tokens, after_blocks = None, []
        for index, tokens in enumerate(self.walk(visual, images)):
            if index in levels:
                after_blocks.append(self.norm(tokens[:, -height * width :]))  # (B, h * w, D)
        tokens = tokens if self.norm is None else self.norm(tokens)
        joint = F.normalize((visual.ln_post(tokens) @ visual.proj).float(), dim=-1)  # (B, T, E)
        patches = joint[:, -height * width :].mT.unflatten(2, (height, width))  # (B, E, h, w)
        return Encoded(patches, joint[:, 0], tuple(after_blocks))

    def walk(self, visual: nn.Module, images: Tensor) -> Iterator[Tensor]:
        """The tokens after each block: (B, 1 + h * w, D), with prompts of the first block only (B, T, D).

        A block's own prompts end with it: the others attend to them, and nothing is computed at their places.
        """
        tokens = self.embed(visual, images)  # (B, 1 + h * w, D)
        projected = self.projection(self.prompts)  # (N, P, D)
        for index, block in enumerate(visual.transformer.resblocks):
            own, prompts = index - self.first, None
            if 0 <= own < len(self.prompts):
                prompts = self.dropout(projected[own].expand(len(images), -1, -1)).to(tokens.dtype)  # (B, P, D)
                if self.keep:
                    tokens, prompts = torch.cat([tokens[:, :1], prompts, tokens[:, 1:]], dim=1), None  # (B, T, D)
            if self.checkpointing and self.training:
                tokens = checkpoint(run_block, block, tokens, prompts, use_reentrant=False)
            else:
                tokens = run_block(block, tokens, prompts)
            yield tokens

    def embed(self, visual: nn.Module, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> tokens (B, 1 + h * w, D) as they enter the first block, before prompts."""
        patches = visual.conv1(self.normalise(images))  # (B, D, h, w)
        tokens = patches.flatten(2).mT + self.position_table(visual, *patches.shape[-2:]).to(patches.dtype)
        # The class embedding enters twice, as token and once more with its position: published checkpoints expect it.
        class_token = 2 * visual.class_embedding + visual.positional_embedding[0]  # (D,)
        class_token = class_token.to(tokens.dtype).expand(len(images), 1, -1)  # (B, 1, D)
        return visual.ln_pre(torch.cat([class_token, tokens], dim=1))  # (B, 1 + h * w, D)

    def position_table(self, visual: nn.Module, height: int, width: int) -> Tensor:
        """(h * w, D): the patches' positions, from CLIP's grid to that of the training crops and on to the image's."""
        table = visual.positional_embedding[1:].float().T.unflatten(1, visual.grid_size)[None]  # (1, D, M, M)
        for size in ((self.grid, self.grid), (height, width)):
            if table.shape[-2:] != size:
                table = F.interpolate(table, size, mode="bilinear", align_corners=False)
        return table[0].flatten(1).T  # (h * w, D)


class PromptedHead(TrainableHead):
    """A head whose images are encoded by a `PromptedEncoder`; none of CLIP's own weights is trained."""

    def __init__(
        self,
        clip: DenseCLIP,
        options: PromptedOptions,
        classes: tuple[str, ...],
        seen: tuple[str, ...],
        known_words: tuple[str, ...] | None = None,
    ):
        super().__init__(clip, options, classes, seen, known_words, padding_colour=MEAN)
        if options.crop != options.image_size:
            self.window_size = (options.image_size,) * 2
        self.encoder = PromptedEncoder(
            clip.visual,
            prompts=options.prompts,
            prompt_blocks=options.prompt_blocks,
            dropout=options.dropout,
            image_size=options.image_size,
        )

    @staticmethod
    def sizes(weights: Mapping[str, Tensor]) -> dict:
        updates = {name.partition(".updates.")[2].partition(".")[0] for name in weights if ".updates." in name}
        return {"prompts": weights["encoder.prompts"].shape[1], "decoder_layers": len(updates) + 1}

    @property
    def normalise(self) -> Normalise:
        return self.encoder.normalise

    @property
    def checkpointing(self) -> bool:
        return self.encoder.checkpointing

    @checkpointing.setter
    def checkpointing(self, active: bool) -> None:
        self.encoder.checkpointing = active
