"""The pairs of models that have a name of their own."""

from dataclasses import dataclass

from proxyclip import vfm
from proxyclip.errors import InputError, nearest


@dataclass(frozen=True)
class Preset:
    """A CLIP and a VFM, and what a user wants to know before downloading them.

    `clip_parameters` counts CLIP's image and text towers; the VFM's numbers are in its own file.
    """

    name: str
    clip: str
    vfm: str
    clip_parameters: int
    clip_source: str
    clip_licence: str = "MIT"

    @property
    def variant(self):
        """What the VFM's own file says of it."""
        family, variant = vfm.find(self.vfm)
        return vfm.family(family).VARIANTS[variant]

    @property
    def parameters(self) -> int:
        """Of both models."""
        return self.clip_parameters + self.variant.parameters

    @property
    def megabytes(self) -> int:
        """To download, about: four bytes a parameter, in units of 10^6 bytes."""
        return round(self.parameters * 4 / 1e6)

    @property
    def sources(self) -> tuple[str, str]:
        """The hub's repositories of the CLIP and the VFM."""
        return self.clip_source, self.variant.repository

    @property
    def licence(self) -> str:
        """Of the CLIP's and the VFM's weights."""
        return f"{self.clip_licence}, {self.variant.licence}"


CLIP_B = ("ViT-B-16:openai", 149_620_737, "timm/vit_base_patch16_clip_224.openai")
CLIP_L = ("ViT-L-14:openai", 427_616_513, "timm/vit_large_patch14_clip_224.openai")
CLIP_H = ("ViT-H-14:laion2b_s32b_b79k", 986_109_441, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")

PRESETS = {
    name: Preset(name, clip, vfm_name, parameters, source)
    for name, (clip, parameters, source), vfm_name in (
        ("vitb16-dino", CLIP_B, "dino-vitb8"),  # the paper's
        ("vitl14-dino", CLIP_L, "dino-vitb8"),
        ("vith14-dino", CLIP_H, "dino-vitb8"),
        ("vitb16-dinov2", CLIP_B, "dinov2-vitb14-reg"),
        ("vitb16-dinov3", CLIP_B, "dinov3-vitb16"),
        ("vitb16-mae", CLIP_B, "mae-vitb16"),
        ("vitb16-sam", CLIP_B, "sam-vitb"),
    )
}


def find(name: str) -> Preset:
    """The preset of that name; an unknown one raises InputError with the nearest names."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    return PRESETS[name]


def presets() -> list[Preset]:
    """Prints every preset's name, parameters, download size, licences, models and sources, and returns them all."""
    for preset in PRESETS.values():
        size = f"{preset.parameters / 1e6:5.0f} M parameters, {preset.megabytes / 1e3:.1f} GB to download"
        print(f"{preset.name:<14}{size}, licences {preset.licence}")
        for model, source in zip((preset.clip, preset.vfm), preset.sources, strict=True):
            print(f"{'':<14}  {model:<27} huggingface.co/{source}")
    return list(PRESETS.values())
