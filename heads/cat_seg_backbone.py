"""What CAT-Seg computes from an image before it aggregates: CLIP's dense embeddings, and its guidance.

An embedding for every patch is made of the values of the last block alone (Zhou et al., Extract Free Dense Labels from
CLIP, 2022, §3.2), in the form of CAT-Seg (Cho et al., 2024, §3.1): that block keeps its feed-forward network, and the
residual of every patch is the class token. Guidance from a separate backbone, ResNet-101 for CLIP ViT-B/16 and Swin-B
for larger ones, is that of the first version of the paper (arXiv 2303.11797v1, §3.4) and of mmsegmentation's project.

Shapes: B images, T = 1 + h * w tokens (the class token first), D width, E joint embedding width, P prompts per block.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heads.prompted_encoder import MEAN, STD
from proxyclip.backbones.checkpoints import download, import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise, linear, run_block, run_network


class Encoded(NamedTuple):
    """patches: joint embeddings (B, E, h, w), not normalised. levels: patch tokens (B, D, h, w) after the blocks asked
    for."""

    patches: Tensor
    levels: tuple[Tensor, ...]


def encode(
    clip: DenseCLIP, images: Tensor, levels: tuple[int, ...], prompts: Tensor | None = None, checkpointing: bool = False
) -> Encoded:
    """(B, 3, H, W) RGB in [0, 1] -> embeddings of the patches.

    levels: blocks, counted from 0, whose patch tokens are returned as well. prompts: (N, P, D), tokens that the patches
    of each block attend to. checkpointing: whether activations of a block are computed again in the backward pass.
    """
    visual, after_blocks = clip.visual, {}
    tokens, grid = clip.embed(images, offset=None), clip.grid(images)  # (B, T, D)
    *blocks, last = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        own = None if prompts is None else prompts[index].expand(len(images), -1, -1).to(tokens.dtype)  # (B, P, D)
        if checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(run_block, block, tokens, own, use_reentrant=False)
        else:
            tokens = run_block(block, tokens, own)
        if index in levels:
            after_blocks[index] = tokens[:, 1:].mT.unflatten(2, grid)  # (B, D, h, w)
    patches = visual.ln_post(values_only(last, tokens)) @ visual.proj  # (B, h * w, E)
    return Encoded(patches.mT.unflatten(2, grid), tuple(after_blocks[index] for index in levels))


def values_only(block: nn.Module, tokens: Tensor) -> Tensor:
    """A block in which each patch attends to itself alone: (B, T, D) -> patches (B, h * w, D)."""
    layer, width = block.attn, tokens.shape[2]
    weight, bias = layer.in_proj_weight[2 * width :], layer.in_proj_bias[2 * width :]
    values = linear(block.ln_1(tokens[:, 1:]), weight, bias)  # (B, h * w, D)
    values = block.ls_1(linear(values, layer.out_proj.weight, layer.out_proj.bias))
    return run_network(block, tokens[:, :1] + values)


PIXELS = 16  # per position of the coarsest features


@dataclass(frozen=True)
class Source:
    """A backbone of timm: its name, which of its feature maps have 4, 8 and 16 pixels per position, and its weights."""

    name: str
    stages: tuple[int, int, int]
    weights: str
    channels_last: bool = False


SOURCES = {
    "resnet101": Source("resnet101", (1, 2, 3), "tv_in1k"),
    "swin_base": Source("swin_base_patch4_window12_384", (0, 1, 2), "ms_in22k", channels_last=True),
}


class GuidanceBackbone(nn.Module):
    """Feature maps with 16, 8 and 4 pixels per position; batch norms keep the published statistics."""

    def __init__(self, kind: str, side: int):
        """kind: a name in SOURCES. side: h and w."""
        super().__init__()
        self.source, self.size = SOURCES[kind], PIXELS * side
        self.normalise = Normalise(MEAN, STD)
        self.features = self.create(pretrained=False)
        self.channels = tuple(reversed(self.features.feature_info.channels()))  # of 16, 8 and 4 pixels per position

    def create(self, **weights) -> nn.Module:
        fixed_size = {"img_size": self.size} if self.source.channels_last else {}
        create = import_library("timm").create_model
        return create(self.source.name, features_only=True, out_indices=self.source.stages, **fixed_size, **weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> (B, C, h, w), (B, C', 2 h, 2 w), (B, C'', 4 h, 4 w)."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        maps = self.features(self.normalise(images))
        maps = [features.permute(0, 3, 1, 2) for features in maps] if self.source.channels_last else maps
        return [*reversed(maps)]

    def train(self, mode: bool = True) -> "GuidanceBackbone":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def load_published(self) -> None:
        """Loads the weights that training starts from; NotFound if they are neither in the cache nor reachable."""
        tag = f"{self.source.name}.{self.source.weights}"
        file = download(f"timm/{tag}", ("model.safetensors",), f"timm's {tag}", flag=None)
        published = self.create(pretrained=True, pretrained_cfg_overlay={"file": str(file)})
        self.features.load_state_dict(published.state_dict())


Mode = Literal["attention", "full", "prompt", "frozen"]


def tune(clip: DenseCLIP, mode: Mode) -> tuple[frozenset[str], frozenset[str]]:
    """Makes weights of a frozen CLIP trainable; returns their names, and those that no weight decay may act on.

    "attention": the query and value projections of all blocks of both towers (Cho et al., CAT-Seg, 2024, §3.4); the
    published position embeddings stay as they are, too. "full": everything in these blocks. "prompt" and "frozen":
    nothing.
    """
    tuned = {}
    for name, parameter in clip.model.named_parameters():
        if is_tuned(name, mode):
            tuned[f"clip.model.{name}"] = parameter.requires_grad_(True)
    if mode != "attention":
        return frozenset(tuned), frozenset()
    for weight in tuned.values():
        weight.register_hook(partial(without_keys, width=weight.shape[1]))
    # A decay would act on the keys as well. The published one, 1e-4 at a rate of 2e-6, is lost in the rounding of
    # float32, so that leaving it out changes nothing.
    return frozenset(tuned), frozenset(tuned)


def is_tuned(name: str, mode: Mode) -> bool:
    """Whether `tune` makes a weight of CLIP trainable. name: in open_clip's model."""
    in_block = "transformer.resblocks." in name
    return in_block and (mode == "full" or mode == "attention" and name.endswith(".attn.in_proj_weight"))


def fixed_part(name: str, weight: Tensor, mode: Mode) -> Tensor:
    """The part of a weight of CLIP that training does not change: all of it, the projection of keys, or nothing."""
    if not is_tuned(name, mode):
        return weight
    return weight.chunk(3)[1] if mode == "attention" else weight[:0]


def without_keys(gradient: Tensor, width: int) -> Tensor:
    """The gradient (3 D, D) of the projections of queries, keys and values, with zeros for the keys."""
    queries, keys, values = gradient.split(width)
    return torch.cat([queries, torch.zeros_like(keys), values])
