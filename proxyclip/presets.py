"""Named pairs of a CLIP and a vision foundation model."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from proxyclip.backbones import vfm
from proxyclip.errors import InputError, nearest

# CLIP -> number of parameters, repository and licence of the weights
CLIPS = {
    "ViT-B-16:openai": (149_620_737, "timm/vit_base_patch16_clip_224.openai", "MIT"),
    "ViT-L-14:openai": (427_616_513, "timm/vit_large_patch14_clip_224.openai", "MIT"),
    "ViT-H-14:laion2b_s32b_b79k": (986_109_441, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT"),
}
PAIRS = {
    "vitb16-dino": ("ViT-B-16:openai", "dino-vitb8"),  # the paper's
    "vitl14-dino": ("ViT-L-14:openai", "dino-vitb8"),
    "vith14-dino": ("ViT-H-14:laion2b_s32b_b79k", "dino-vitb8"),
    "vitb16-dinov2": ("ViT-B-16:openai", "dinov2-vitb14-reg"),
    "vitb16-dinov3": ("ViT-B-16:openai", "dinov3-vitb16"),
    "vitb16-mae": ("ViT-B-16:openai", "mae-vitb16"),
    "vitb16-sam": ("ViT-B-16:openai", "sam-vitb"),
}
MINI = Path(__file__).parent / "mini"


@dataclass(frozen=True)
class Preset:
    """A CLIP and a VFM, with the facts to know before downloading them.

    `parameters` and `megabytes` (10^6 bytes, approximate) count both models; `sources` are the repositories on the hub.
    `options` contains the settings that differ from the defaults of all methods, `methods` by method those of one,
    `vfm_layer` the block of the VFM to take features from (None: the last), `known_words` all names that a CLIP with a
    small vocabulary was trained on.
    """

    name: str
    clip: str
    vfm: str
    parameters: int
    megabytes: int
    sources: tuple[str, str]
    licence: str
    options: dict = field(default_factory=dict)
    methods: dict[str, dict] = field(default_factory=dict)
    vfm_layer: int | None = None
    known_words: tuple[str, ...] | None = None

    def options_of(self, method: str, known) -> dict:
        """The settings for a method, of those that are among the names of its options."""
        chosen = self.options | self.methods.get(method, {})
        return {name: value for name, value in chosen.items() if name in known}


def preset_names() -> list[str]:
    """All presets, the embedded one first."""
    return ["mini", *PAIRS]


def find_preset(name: str) -> Preset:
    """The preset of that name; an unknown one raises InputError with the nearest names."""
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}; {nearest(name, preset_names())}")
    if name == "mini":
        return embedded()
    clip, vfm_name = PAIRS[name]
    parameters, source, licence = CLIPS[clip]
    family, variant = vfm.find(vfm_name)
    facts = vfm.family(family).VARIANTS[variant]
    parameters += facts.parameters
    sources = f"huggingface.co/{source}", f"huggingface.co/{facts.repository}"
    licences = f"{licence}, {facts.licence}"
    return Preset(name, clip, vfm_name, parameters, round(parameters * 4 / 1e6), sources, licences)


def embedded() -> Preset:
    """The tiny pair that ships with this package, with its own settings; see mini/MODEL_CARD.md."""
    facts = json.loads((MINI / "mini.json").read_text(encoding="utf-8"))
    options = with_tuples(facts["options"])
    return Preset(
        name="mini",
        clip=str(MINI / "clip"),
        vfm=f"dino:{MINI / 'vfm'}",
        parameters=facts["parameters"],
        megabytes=0,
        sources=("part of this package",) * 2,
        licence="Apache-2.0",
        options=options,
        methods={method: with_tuples(own) for method, own in facts["methods"].items()},
        vfm_layer=facts["vfm_layer"],
        known_words=tuple(facts["known_words"]),
    )


def with_tuples(options: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def recorded_name(name: str) -> str:
    """A model's name in results: embedded models without the folder they are installed in."""
    own = embedded()
    name = name.replace(f"{own.vfm} layer {own.vfm_layer}", own.vfm)  # the layer it is made for
    return name.replace(own.vfm, "mini-vfm").replace(own.clip, "mini-clip")


def presets() -> list[Preset]:
    """Prints every preset's name, parameters, download size, licences, models and sources, and returns them all."""
    found = [find_preset(name) for name in preset_names()]
    for preset in found:
        size = f"{preset.parameters / 1e6:5.0f} M parameters, {preset.megabytes / 1e3:.1f} GB to download"
        print(f"{preset.name:<14}{size}, licences {preset.licence}")
        for model, source in zip((preset.clip, preset.vfm), preset.sources, strict=True):
            print(f"{'':<14}  {Path(model).name:<27} {source}")
    return found
