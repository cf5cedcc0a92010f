"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al., 2021, arXiv:2111.06377)."""

from functools import partial

from torch import Tensor

from proxyclip.backbones.layers import resample
from proxyclip.backbones.vfm._vit import Options, Variant, ViT, load_timm

VARIANTS = {"vitb16": Variant("vit_base_patch16_224.mae", 85_798_656, "cc-by-nc-4.0")}
DEFAULT = "vitb16"
FEATURES = ("tokens",)


class MAE(ViT):
    """As published with ProxyCLIP it sees every image stretched to one size, `window` x `window` pixels."""

    def __init__(self, vit, window: int = 336, **statistics):
        super().__init__(vit, **statistics)
        self.window = window

    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, window, window), normalised."""
        return super().prepare(images, (self.window, self.window))

    def resize(self, table: Tensor, h: int, w: int) -> Tensor:
        """(M, M, C) -> (h, w, C)."""
        return resample(table, (h, w))


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The files with the decoder hold weights that only training needs."""
    return {name: value for name, value in state.items() if not name.startswith(("decoder_", "mask_token"))}


def load(variant: str, source: str | None, options: Options) -> MAE:
    """See proxyclip.backbones.vfm.load."""
    make = partial(MAE, window=options.window)
    return load_timm(make, VARIANTS[variant], source, from_official, options.layer)
