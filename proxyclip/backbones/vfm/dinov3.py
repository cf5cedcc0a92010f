"""DINOv3 (Siméoni et al., 2025, arXiv:2508.10104): rotary positions, so there is no table to resize."""

from torch import Tensor, nn

from proxyclip.backbones.vfm._vit import VFM, Options, Variant, load_timm

VARIANTS = {
    "vits16": Variant("vit_small_patch16_dinov3.lvd1689m", 21_586_944, "dinov3-license"),
    "vitb16": Variant("vit_base_patch16_dinov3.lvd1689m", 85_641_216, "dinov3-license"),
    "vitl16": Variant("vit_large_patch16_dinov3.lvd1689m", 303_079_424, "dinov3-license"),
}
DEFAULT = "vitb16"
FEATURES = ("tokens",)


class DINOv3(VFM):
    """A timm Eva made with `dynamic_img_size=True`, which computes its rotary positions for every grid."""

    def __init__(self, vit: nn.Module, **statistics):
        super().__init__(vit.patch_embed.patch_size[0], **statistics)
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
        p = self.patch_size
        h, w = images.shape[-2] // p, images.shape[-1] // p
        tokens = self.vit.forward_features(self.prepare(images[..., : h * p, : w * p]))  # (B, R+N, C)
        return tokens[:, self.vit.num_prefix_tokens :].mT.unflatten(2, (h, w))  # (B, C, h, w)


def load(variant: str, source: str | None, options: Options) -> DINOv3:
    """See proxyclip.backbones.vfm.load."""
    return load_timm(DINOv3, VARIANTS[variant], source, dict, options.layer, kind="Eva")
