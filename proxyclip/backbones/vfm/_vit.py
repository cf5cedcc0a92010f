"""The vision transformers of timm, walked from outside: each author resizes the position table in another way.

Shapes: B images of H x W pixels, h x w patches, N = h*w, R class and register tokens, C channels, M x M the position
table's own grid.

From an explicit architecture and an official state dict, without `load`:

    vit = timm.models.VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0)
    load_strict(vit, dino.from_official(state), "tiny.pth")
    features = dino.DINO(vit)(images)
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import download, fixed_seed, import_library, load_strict, read_checkpoint
from proxyclip.backbones.layers import Normalise, linear, resample
from proxyclip.errors import InputError, NotFound

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """One set of published weights: its name in timm, number of parameters of the image encoder, and licence."""

    architecture: str
    parameters: int
    licence: str

    @property
    def repository(self) -> str:
        """Where the weights are, on the Hugging Face hub."""
        return f"timm/{self.architecture}"

    @property
    def megabytes(self) -> float:
        """The size of a download: every parameter in float32."""
        return self.parameters * 4 / 1e6


@dataclass(frozen=True)
class Options:
    """Options of `proxyclip.backbones.vfm.load`; a family uses those that apply to it."""

    features: str = "tokens"
    layer: int | None = None
    window: int = 336


class VFM(nn.Module):
    """An image encoder with the mean and standard deviation of its training data; families define `forward`."""

    name = ""

    def __init__(self, patch_size: int, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.patch_size, self.normalise = patch_size, Normalise(mean, std)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean colour of the training data."""
        return self.normalise.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the training data."""
        return self.normalise.std

    def prepare(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """RGB in [0, 1] -> normalised and stretched to `size`, both in float32, then in the weights' type."""
        images = self.normalise(images)  # (B, 3, H, W)
        if size is not None and images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear")  # (B, 3, *size)
        return images.to(next(self.parameters()).dtype)


def first_blocks(blocks, layer: int | None):
    """The blocks up to number `layer`, counted from 1; all for None."""
    if layer is not None and not 1 <= layer <= len(blocks):
        raise InputError(f"layer {layer} does not exist: the model has layers 1 to {len(blocks)}")
    return blocks[:layer]


class ViT(VFM):
    """A timm VisionTransformer, walked from outside because each author resizes the position table in another way."""

    def __init__(self, vit: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__(vit.patch_embed.patch_size[0], mean, std)
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
        patches = self.vit.patch_embed.proj(self.prepare(images))  # (B, C, h, w)
        h, w = patches.shape[-2:]
        patches = patches.flatten(2).mT + self.position_table(h, w)  # (B, N, C)
        first = self.first_tokens().expand(len(patches), -1, -1)  # (B, R, C)
        tokens = self.encode(self.vit.norm_pre(torch.cat([first, patches], dim=1)))  # (B, R+N, C)
        return tokens[:, first.shape[1] :].mT.unflatten(2, (h, w))  # (B, C, h, w)

    def encode(self, tokens: Tensor) -> Tensor:
        """The transformer: (B, R+N, C) -> (B, R+N, C)."""
        for block in self.vit.blocks:
            tokens = run_block(block, tokens)
        return self.vit.norm(tokens)

    def first_tokens(self) -> Tensor:
        """(1, R, C): the class token and the registers, with their positions where the table has any."""
        vit = self.vit
        tokens = torch.cat([vit.cls_token] + ([] if vit.reg_token is None else [vit.reg_token]), dim=1)
        return tokens if vit.no_embed_class else tokens + vit.pos_embed[:, : tokens.shape[1]]

    def position_table(self, h: int, w: int) -> Tensor:
        """(1, N, C): the positions of h x w patches."""
        stored, grid = self.vit.pos_embed, self.vit.patch_embed.grid_size
        table = stored[:, -grid[0] * grid[1] :]  # (1, M * M, C)
        if grid == (h, w):
            return table
        table = self.resize(table[0].unflatten(0, grid), h, w)  # (h, w, C)
        return table.flatten(0, 1)[None].to(stored.dtype)  # (1, N, C)

    def resize(self, table: Tensor, h: int, w: int) -> Tensor:
        """(M, M, C) -> (h, w, C) in the published way of DINO and DINOv2: by a scale factor 0.1 above the true one."""
        return resample(table, (h, w), offset=0.1)


def run_block(block: nn.Module, tokens: Tensor) -> Tensor:
    """One block of timm's vision transformer, (B, T, C) -> (B, T, C), with our CPU kernels."""
    layer, mlp = block.attn, block.mlp
    if type(layer).__name__ != "Attention" or type(mlp).__name__ != "Mlp" or getattr(layer, "gate", None) is not None:
        return block(tokens)  # an unusual kind, from a folder: as the library has it
    projected = linear(block.norm1(tokens), layer.qkv.weight, layer.qkv.bias)  # (B, T, 3 C)
    heads = projected.unflatten(-1, (3, layer.num_heads, -1))  # (B, T, 3, heads, d)
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, heads, T, d) each
    mixed = (
        F.scaled_dot_product_attention(layer.q_norm(query), layer.k_norm(key), value).transpose(1, 2).flatten(2)
    )  # (B, T, C)
    tokens = tokens + block.ls1(linear(layer.norm(mixed), layer.proj.weight, layer.proj.bias))
    hidden = mlp.norm(mlp.act(linear(block.norm2(tokens), mlp.fc1.weight, mlp.fc1.bias)))  # (B, T, 4 C)
    return tokens + block.ls2(linear(hidden, mlp.fc2.weight, mlp.fc2.bias))


def load_timm(
    make, variant: Variant, source: str | None, from_official, layer: int | None, kind: str = "VisionTransformer"
) -> VFM:
    """`make(vit, mean=…, std=…)` of a timm model with the weights of `source` in it (see proxyclip.backbones.vfm.load).

    `from_official` renames the weights of the authors' checkpoints to timm's names; `kind` is timm's class.
    """
    timm = import_library("timm")
    architecture, arguments, settings = variant.architecture, {}, {}
    if source is not None and os.path.isdir(source):
        architecture, arguments, settings = read_folder(Path(source))
        source = str(Path(source) / "model.safetensors")
    if source != "random":
        source = source or download(
            variant.repository, ("model.safetensors",), f"VFM {architecture}", "--checkpoint-vfm"
        )
        state = from_official(without_head(read_checkpoint(source)))
    with fixed_seed():
        try:
            vit = timm.create_model(architecture, **{**arguments, "num_classes": 0})
        except (RuntimeError, TypeError) as error:
            raise InputError(f"timm cannot build {architecture!r} with {arguments}: {error}") from error
    if type(vit).__name__ != kind:
        raise InputError(f"the folder's config.json names {architecture!r}, which is not a {kind}")
    if source != "random":
        load_strict(vit, state, str(source))
    vit.blocks = first_blocks(vit.blocks, layer)
    return make(vit, mean=settings.get("mean", IMAGENET_MEAN), std=settings.get("std", IMAGENET_STD))


def read_folder(folder: Path) -> tuple[str, dict, dict]:
    """Architecture, its arguments and the preprocessing from timm's config.json."""
    file = folder / "config.json"
    if not file.is_file():
        raise NotFound(f"folder {folder} has no config.json: it is not a model in timm's layout")
    try:
        config = json.loads(file.read_text())
        return config["architecture"], config.get("model_args", {}), config.get("pretrained_cfg", {})
    except (ValueError, KeyError) as error:
        raise InputError(f"{file} is not a valid timm configuration ({type(error).__name__}: {error})") from error


def without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those of a classifier, or of a head of their training, which some files carry along."""
    if any(name.startswith("backbone.") for name in state):
        return {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    return {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm."))}
