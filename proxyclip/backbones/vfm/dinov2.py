"""DINOv2: Learning Robust Visual Features without Supervision (Oquab et al., 2023, arXiv:2304.07193).

With registers: Vision Transformers Need Registers (Darcet et al., 2023, arXiv:2309.16588).
"""

import os
from functools import partial

from torch import Tensor

from proxyclip.backbones.layers import resample
from proxyclip.backbones.vfm._vit import Options, Variant, ViT, load_timm
from proxyclip.errors import InputError

VARIANTS = {
    "vits14": Variant("vit_small_patch14_dinov2.lvd142m", 22_056_192, "apache-2.0"),
    "vitb14": Variant("vit_base_patch14_dinov2.lvd142m", 86_579_712, "apache-2.0"),
    "vitl14": Variant("vit_large_patch14_dinov2.lvd142m", 304_367_616, "apache-2.0"),
    "vits14-reg": Variant("vit_small_patch14_reg4_dinov2.lvd142m", 22_057_344, "apache-2.0"),
    "vitb14-reg": Variant("vit_base_patch14_reg4_dinov2.lvd142m", 86_582_016, "apache-2.0"),
    "vitl14-reg": Variant("vit_large_patch14_reg4_dinov2.lvd142m", 304_370_688, "apache-2.0"),
}
DEFAULT = "vitb14-reg"
FEATURES = ("tokens",)


class DINOv2(ViT):
    """The two kinds differ in more than the registers: their authors resize the position table differently."""

    def resize(self, table: Tensor, h: int, w: int) -> Tensor:
        """(M, M, C) -> (h, w, C)."""
        if self.vit.reg_token is None:
            return super().resize(table, h, w)
        return resample(table, (h, w), antialias=True)


def registers_of(variant: str, source: str | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`from_official`; InputError for a file of the other kind of model."""
    registers = not state.keys().isdisjoint({"register_tokens", "reg_token"})
    if "cls_token" in state and registers != variant.endswith("-reg"):
        other = f"{variant}-reg" if registers else variant.removesuffix("-reg")
        raise InputError(f"{source} has {'' if registers else 'no '}registers: load it as dinov2-{other}")
    return from_official(state)


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm adds the class token's position to the token itself in models with registers; mask_token is for training."""
    state = {name: value for name, value in state.items() if name != "mask_token"}
    if "register_tokens" in state:
        positions = state["pos_embed"]  # (1, 1+M*M, C)
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    return state


def load(variant: str, source: str | None, options: Options) -> DINOv2:
    """See proxyclip.backbones.vfm.load."""
    renamed = from_official
    if source is not None and not os.path.isdir(source):  # a folder says itself which kind of model it holds
        renamed = partial(registers_of, variant, source)
    return load_timm(DINOv2, VARIANTS[variant], source, renamed, options.layer)
