"""SAM: Segment Anything (Kirillov et al., 2023, arXiv:2304.02643): the image encoder, up to and including its neck."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import download, fixed_seed, import_library, load_strict, read_checkpoint
from proxyclip.backbones.vfm._vit import VFM, Options, Variant, first_blocks

VARIANTS = {
    "vitb": Variant("samvit_base_patch16.sa1b", 89_670_912, "apache-2.0"),
    "vitl": Variant("samvit_large_patch16.sa1b", 308_278_272, "apache-2.0"),
    "vith": Variant("samvit_huge_patch16.sa1b", 637_026_048, "apache-2.0"),
}
DEFAULT = "vitb"
FEATURES = ("tokens",)


class SAM(VFM):
    """An ImageEncoderViT of the segment_anything package; every image is stretched to the size it is made for.

    Shapes: h x w patches, N = h*w, n heads of width d.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder.patch_embed.proj.kernel_size[0])
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w), where h = w = 64 for the published models."""
        encoder = self.encoder
        tokens = encoder.patch_embed(self.prepare(images, (encoder.img_size, encoder.img_size)))  # (B, h, w, D)
        tokens = tokens + encoder.pos_embed
        for block in encoder.blocks:
            tokens = run_block(block, tokens)
        return encoder.neck(tokens.permute(0, 3, 1, 2))  # (B, C, h, w)


def run_block(block: nn.Module, tokens: Tensor) -> Tensor:
    """One block, (B, h, w, D) -> (B, h, w, D), with attention within its windows or, where it has none, everywhere."""
    parts = import_library("segment_anything.modeling.image_encoder")
    normal, size = block.norm1(tokens), block.window_size
    if size > 0:
        windows, padded = parts.window_partition(normal, size)  # (B * windows, size, size, D)
        mixed = parts.window_unpartition(attend(block.attn, windows), size, padded, tokens.shape[1:3])  # (B, h, w, D)
    else:
        mixed = attend(block.attn, normal)  # (B, h, w, D)
    tokens = tokens + mixed
    return tokens + block.mlp(block.norm2(tokens))


def attend(attention: nn.Module, tokens: Tensor) -> Tensor:
    """The output of `attention`, (B, h, w, D) -> (B, h, w, D), without its N x N matrices (800 MB an image).

    The score of query i and key j is q_i·k_j + q_i·row(i, j) + q_i·column(i, j), and the last two depend on j through
    its row and its column alone. So they are part of one longer inner product: the query brings its h + w values
    of them, and the key brings a one in the place of its row and its column.
    """
    h, w = tokens.shape[1:3]
    projected = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1))  # (B, h, w, 3, n, d)
    q, k, v = projected.permute(3, 0, 4, 1, 2, 5)  # (B, n, h, w, d) each
    rows = torch.einsum("bnyxd,ykd->bnyxk", q, between(h, attention.rel_pos_h))  # (B, n, h, w, h)
    columns = torch.einsum("bnyxd,xkd->bnyxk", q, between(w, attention.rel_pos_w))  # (B, n, h, w, w)
    place = torch.eye(h + w, dtype=tokens.dtype, device=tokens.device)
    place = place[:h, None] + place[None, h:]  # (h, w, h+w)
    q = torch.cat([q * attention.scale, rows, columns], dim=-1).flatten(2, 3)  # (B, n, N, d+h+w)
    k = torch.cat([k, place.expand(*k.shape[:2], -1, -1, -1)], dim=-1).flatten(2, 3)  # (B, n, N, d+h+w)
    # The fused kernel wants values as long as the keys.
    values = F.pad(v.flatten(2, 3), (0, h + w))  # (B, n, N, d+h+w)
    mixed = F.scaled_dot_product_attention(q, k, values, scale=1.0)[..., : v.shape[-1]]  # (B, n, N, d)
    return attention.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, (h, w))  # (B, h, w, D)


def between(n: int, table: Tensor) -> Tensor:
    """The entries for each pair of n positions, (n, n, d), out of the (2n-1, d) for each of their distances."""
    steps = torch.arange(n, device=table.device)
    return table[steps[:, None] - steps + n - 1]  # (n, n, d)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder of a whole SAM, or timm's file of it, under the encoder's own names."""
    prefix = "image_encoder."
    if any(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name.replace(".mlp.fc", ".mlp.lin"): value for name, value in state.items()}


def load(variant: str, source: str | None, options: Options) -> SAM:
    """See proxyclip.backbones.vfm.load."""
    if source != "random":
        repository = VARIANTS[variant].repository
        source = source or download(repository, ("model.safetensors",), f"SAM {variant}", "--checkpoint-vfm")
        # A folder in timm's layout; its sizes are those of the variant, which the strict loading checks.
        source = Path(source, "model.safetensors") if os.path.isdir(source) else source
        state = from_official(read_checkpoint(source))
    with fixed_seed():
        build = import_library("segment_anything").sam_model_registry[f"vit_{variant[-1]}"]
        encoder = build().image_encoder
    if source != "random":
        load_strict(encoder, state, str(source))
    encoder.blocks = first_blocks(encoder.blocks, options.layer)
    return SAM(encoder)
