"""From names and options to a model: all input is checked before any weights are loaded.

torch is imported when a model is planned, so that presets can be listed and options checked without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from proxyclip.backbones import vfm as vfms
from proxyclip.errors import InputError, NotFound, nearest
from proxyclip.methods import find_method, method_names
from proxyclip.options import check_type, make_options
from proxyclip.refine import Choice, read_refinement

if TYPE_CHECKING:
    import torch

    from proxyclip.methods._training_free import Options
    from proxyclip.segmentor import Segmentor

BACKENDS = ("torch", "openvino")
ONE_WINDOW = 224  # MAE is built for the size of a window; without windows for its own


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model that is checked as far as possible without loading weights: a training-free method, a trained head, or a
    head to train.

    module: the file of the method or head. make: from the plan to the model on the CPU, with its weights. checkpoint,
    classes, seen: of a head, its file and names of its training; see `heads`. The others are arguments of `load`.
    """

    module: ModuleType
    options: Options
    make: Callable[..., Segmentor]
    clip: str
    checkpoint_clip: str | None = None
    vfm: str | None = None
    checkpoint_vfm: str | None = None
    vfm_features: str = "tokens"
    vfm_layer: int | None = None
    known_words: tuple[str, ...] | None = None
    checkpoint: object = None
    classes: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    device: torch.device
    dtype: torch.dtype
    refine: Choice | None = None
    backend: str = "torch"

    @property
    def name(self) -> str:
        """Of the method or head."""
        return self.module.__name__.rpartition(".")[2]

    def build(self, **choices) -> Segmentor:
        """The model, with its weights; NotFound for weights that are neither local nor reachable. choices: further
        arguments of `make`."""
        model = self.make(self, **choices)
        model.refinement = self.refine and self.refine.build()
        return model.set_precision(self.dtype).to(self.device).eval()


def make_method(plan: Plan) -> Segmentor:
    """A training-free method on its CLIP and VFM."""
    from proxyclip.backbones import build_clip
    from proxyclip.methods._training_free import check_crop

    crop, vfm = plan.options.crop, None
    if plan.module.NEEDS_VFM:
        loading = {"features": plan.vfm_features, "layer": plan.vfm_layer, "window": crop or ONE_WINDOW}
        vfm = vfms.load(plan.vfm, plan.checkpoint_vfm, **loading)
        check_crop(crop, vfm.patch_size)
    clip = build_clip.load(plan.clip, plan.checkpoint_clip)
    for half in filter(None, (clip, vfm)):
        half.name = recorded_name(half.name)
    model = plan.module.Method(clip, vfm, plan.options, plan.known_words)
    if plan.backend == "openvino":
        from proxyclip.backbones.backends import OpenVINOTowers

        side = crop + sum(model.windows.padding(crop))
        model.openvino = OpenVINOTowers(clip, vfm, side, model.batches(None).size, plan.dtype)
    return model


def load(preset: str | None = None, **choices) -> Segmentor:
    """Loads a model, by the name of a preset (see `proxyclip.presets()`) or of a CLIP and a VFM.

    method: "proxyclip", "naclip", "maskclip" or another file of `proxyclip.methods`; all but "proxyclip" and "glaclip"
    need no VFM, and load none. clip: open_clip's names of architecture and weights, "ViT-B-16:openai";
    "ViT-B-16:random" for seeded random weights; or a folder in open_clip's layout. vfm: "dino-vitb8" and the like,
    "hf:ORGANISATION/MODEL", or "dino:FOLDER". checkpoint_clip, checkpoint_vfm: official checkpoint files to load
    instead of downloading. vfm_features: "tokens", or for DINO "q", "k" or "v". vfm_layer: the block of the VFM to take
    features from, counted from 1. device: "cpu", "cuda", "mps" or "auto". precision: "fp32", "bf16", "fp16" or "auto",
    which is fp32 on a CPU and bf16 or fp16 on an accelerator. refine: a refinement of the score maps, "pamr",
    "masks:FOLDER" or "sam:CHECKPOINT", with options as in "pamr:steps=5"; see `proxyclip.refine`. backend: "openvino"
    compiles the image towers for a CPU when the model is loaded; for methods that use nothing but CLIP's values and the
    VFM's features. It needs `pip install 'proxyclip[openvino]'`.

    All other arguments are fields of the method's `Options`: short_side, crop, stride, multiple (pixels), logit_scale,
    templates, and those of the method, such as beta and gamma for ProxyCLIP. The defaults are the paper's values. The
    settings of a preset apply to its own pair only, not to another CLIP or VFM.

    Raises InputError for invalid values and NotFound for weights that are neither local nor reachable.
    """
    return plan(preset, **choices).build()


def plan(
    preset: str | None = None,
    *,
    method: str = "proxyclip",
    clip: str | None = None,
    vfm: str | None = None,
    checkpoint_clip: str | Path | None = None,
    checkpoint_vfm: str | Path | None = None,
    vfm_features: str = "tokens",
    vfm_layer: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    refine: str | None = None,
    backend: str = "torch",
    **options,
) -> Plan:
    """The model that `load` would build, with the same errors, but without loading weights."""
    from proxyclip.backbones import build_clip
    from proxyclip.backbones.precision import resolve_device, resolve_precision
    from proxyclip.methods._training_free import check_crop
    from proxyclip.text import check_templates

    module = find_method(method)
    for name, value in (("clip", clip), ("vfm", vfm), ("vfm_features", vfm_features)):
        check_type(name, value, str | None)
    check_type("vfm_layer", vfm_layer, int | None)
    for name, file in (("checkpoint_clip", checkpoint_clip), ("checkpoint_vfm", checkpoint_vfm)):
        check_type(name, file, str | Path | None)
        if file is not None and not os.path.isfile(file):  # False, too, for what no path can be
            raise NotFound(f"checkpoint {file} does not exist")
    options = {name: value for name, value in options.items() if value is not None}
    if "templates" in options:
        options["templates"] = check_templates(options["templates"])
    known_words = None
    if preset is not None:
        pair = find_preset(preset)
        own_clip, own_vfm = clip in (None, pair.clip), vfm in (None, pair.vfm)
        if own_clip and (own_vfm or not module.NEEDS_VFM):
            options = pair.options_of(method, {field.name for field in fields(module.Options)}) | options
        known_words = pair.known_words if own_clip else None
        vfm_layer = pair.vfm_layer if vfm_layer is None and own_vfm else vfm_layer
        clip, vfm = pair.clip if clip is None else clip, pair.vfm if vfm is None else vfm
    if clip is None or (vfm is None and module.NEEDS_VFM):
        raise InputError(f"name a preset, or a clip and a vfm; presets: {', '.join(preset_names())}")
    options = make_options(module.Options, options, f"method {method}")
    device = resolve_device(device)
    dtype = resolve_precision(precision, device)
    refinement = read_refinement(refine)
    build_clip.parse(clip)
    depth, patch_size = build_clip.image_encoder(clip)
    check_crop(options.crop, patch_size)
    module.Method.check(options, depth, patch_size)
    check_backend(backend, method, crop=options.crop, device=device, dtype=dtype)
    if module.NEEDS_VFM:
        vfms.find(vfm.partition(":")[0])
    return Plan(
        module=module,
        options=options,
        make=make_method,
        clip=clip,
        vfm=vfm,
        checkpoint_clip=checkpoint_clip and str(checkpoint_clip),
        checkpoint_vfm=checkpoint_vfm and str(checkpoint_vfm),
        vfm_features=vfm_features,
        vfm_layer=vfm_layer,
        known_words=known_words,
        device=device,
        dtype=dtype,
        refine=refinement,
        backend=backend,
    )


def check_backend(backend: str, method: str, *, crop: int, device: torch.device, dtype: torch.dtype) -> None:
    """InputError, before any weights are loaded, for a backend that is unknown or cannot run such a model."""
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; {nearest(str(backend), BACKENDS)}")
    if backend == "torch":
        return
    if not find_method(method).Method.only_values:
        fitting = ", ".join(name for name in method_names() if find_method(name).Method.only_values)
        raise InputError(f"backend openvino cannot run {method}: choose one of {fitting}, or backend torch")
    precision = str(dtype).removeprefix("torch.")
    if device.type != "cpu" or precision not in ("float32", "bfloat16"):
        raise InputError("backend openvino runs on device cpu, with precision fp32 or bf16: choose these")
    if not crop:
        raise InputError("backend openvino needs windows of one size: choose a crop instead of 0, the whole image")
    from proxyclip.backbones.backends import require_openvino

    openvino = require_openvino()
    if precision == "bfloat16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError("OpenVINO has no bf16 on this processor: choose precision fp32, or backend torch")


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
    family, variant = vfms.find(vfm_name)
    facts = vfms.family(family).VARIANTS[variant]
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
