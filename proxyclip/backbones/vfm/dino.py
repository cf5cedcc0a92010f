"""DINO: Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021, arXiv:2104.14294)."""

from functools import partial

from torch import Tensor

from proxyclip.backbones.vfm._vit import Options, Variant, ViT, load_timm, run_block

VARIANTS = {
    "vits16": Variant("vit_small_patch16_224.dino", 21_665_664, "apache-2.0"),
    "vits8": Variant("vit_small_patch8_224.dino", 21_670_272, "apache-2.0"),
    "vitb16": Variant("vit_base_patch16_224.dino", 85_798_656, "apache-2.0"),
    "vitb8": Variant("vit_base_patch8_224.dino", 85_807_872, "apache-2.0"),
}
DEFAULT = "vitb8"
FEATURES = ("tokens", "q", "k", "v")


class DINO(ViT):
    """`features`: the last block's "tokens", or the queries "q", keys "k" or values "v" that it computes."""

    def __init__(self, vit, features: str = "tokens", **statistics):
        super().__init__(vit, **statistics)
        self.features = features

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, 1+N, C) -> (B, 1+N, C); for q, k and v the heads stand side by side in C."""
        if self.features == "tokens":
            return super().encode(tokens)
        *blocks, last = self.vit.blocks
        for block in blocks:
            tokens = run_block(block, tokens)
        projected = last.attn.qkv(last.norm1(tokens))  # (B, 1+N, 3C)
        return projected.chunk(3, dim=-1)["qkv".index(self.features)]  # (B, 1+N, C)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published files have timm's names."""
    return state


def load(variant: str, source: str | None, options: Options) -> DINO:
    """See proxyclip.backbones.vfm.load."""
    make = partial(DINO, features=options.features)
    return load_timm(make, VARIANTS[variant], source, from_official, options.layer)
