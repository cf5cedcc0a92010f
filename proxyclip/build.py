"""From names and options to a model: all input is checked before any weights are loaded."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import torch

from proxyclip.backbones import build_clip
from proxyclip.backbones import vfm as vfms
from proxyclip.backbones.precision import resolve_device, resolve_precision
from proxyclip.errors import InputError, NotFound
from proxyclip.methods import find_method
from proxyclip.methods._training_free import Options, check_crop
from proxyclip.openvino_towers import OpenVINOTowers, check_backend
from proxyclip.options import check_type, make_options
from proxyclip.presets import find_preset, preset_names, recorded_name
from proxyclip.refine import Choice, read_refinement
from proxyclip.segmentor import Segmentor
from proxyclip.text import check_templates

ONE_WINDOW = 224  # MAE is built for the size of a window; without windows for its own


@dataclass(frozen=True)
class Plan:
    """A model that is checked as far as possible without loading weights; see `load`."""

    method: ModuleType
    options: Options
    clip: str
    vfm: str | None
    checkpoint_clip: str | None
    checkpoint_vfm: str | None
    vfm_features: str
    vfm_layer: int | None
    known_words: tuple[str, ...] | None
    device: torch.device
    dtype: torch.dtype
    refine: Choice | None = None
    backend: str = "torch"

    def build(self) -> Segmentor:
        vfm = None
        if self.method.NEEDS_VFM:
            window = self.options.crop or ONE_WINDOW
            loading = {"features": self.vfm_features, "layer": self.vfm_layer, "window": window}
            vfm = vfms.load(self.vfm, self.checkpoint_vfm, **loading)
            check_crop(self.options.crop, vfm.patch_size)
        clip = build_clip.load(self.clip, self.checkpoint_clip)
        for half in filter(None, (clip, vfm)):
            half.name = recorded_name(half.name)
        model = self.method.Method(clip, vfm, self.options, self.known_words)
        model.refinement = self.refine and self.refine.build()
        if self.backend == "openvino":
            side = self.options.crop + sum(model.windows.padding(self.options.crop))
            model.openvino = OpenVINOTowers(clip, vfm, side, model.batches(None).size, self.dtype)
        return model.set_precision(self.dtype).to(self.device).eval()


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
    found = find_method(method)
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
        if own_clip and (own_vfm or not found.NEEDS_VFM):
            options = pair.options_of(method, {field.name for field in fields(found.Options)}) | options
        known_words = pair.known_words if own_clip else None
        vfm_layer = pair.vfm_layer if vfm_layer is None and own_vfm else vfm_layer
        clip, vfm = pair.clip if clip is None else clip, pair.vfm if vfm is None else vfm
    if clip is None or (vfm is None and found.NEEDS_VFM):
        raise InputError(f"name a preset, or a clip and a vfm; presets: {', '.join(preset_names())}")
    options = make_options(found.Options, options, f"method {method}")
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    refinement = read_refinement(refine)
    build_clip.parse(clip)
    depth, patch_size = build_clip.image_encoder(clip)
    check_crop(options.crop, patch_size)
    found.Method.check(options, depth, patch_size)
    check_backend(backend, method, options.crop, place, dtype)
    if found.NEEDS_VFM:
        vfms.find(vfm.partition(":")[0])
    files = (str(file) if file is not None else None for file in (checkpoint_clip, checkpoint_vfm))
    return Plan(
        found, options, clip, vfm, *files, vfm_features, vfm_layer, known_words, place, dtype, refinement, backend
    )
