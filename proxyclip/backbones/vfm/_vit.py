"""The vision transformers of timm, walked from outside: each author resizes the position table in another way.

Shapes: B images of H x W pixels, h x w patches, N = h*w, R class and register tokens, C channels, M x M the position
table's own grid.

From an explicit architecture and an official state dict, without `load`:

    vit = timm.models.VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0)
    load_strict(vit, dino.from_official(state), "tiny.pth")
    features = dino.DINO(vit)(images)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.cpu_kernels import linear
from proxyclip.backbones.position_table import resample
from proxyclip.backbones.vfm._vfm import IMAGENET_MEAN, IMAGENET_STD, VFM


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
