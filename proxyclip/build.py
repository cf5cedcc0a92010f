"""From names to a model that is ready: checks first, then the VFM and CLIP, then device and precision."""

from dataclasses import fields
from pathlib import Path

import torch

from proxyclip.backbones import build_clip
from proxyclip.backbones import vfm as vfms
from proxyclip.errors import InputError, NotFound, nearest
from proxyclip.methods import find_method
from proxyclip.methods._training_free import check_crop
from proxyclip.options import check_type, make_options
from proxyclip.presets import find_preset, preset_names, recorded_name
from proxyclip.segmentor import Segmentor

ONE_WINDOW = 224  # MAE is built for the size of a window; without windows for its own
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(
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
    **options,
) -> Segmentor:
    """A model that segments, by the name of a pair (`proxyclip.presets()` lists them) or of its two halves.

    method: "proxyclip", or for comparison "maskclip" (CLIP's last values as they are) or "clip" (CLIP's own last
    block), which need no VFM. clip: "ViT-B-16:openai", open_clip's names for architecture and weights;
    "ViT-B-16:random" for seeded random weights; or a folder in open_clip's layout. vfm: "dino-vitb8" and the like,
    "hf:ORGANISATION/MODEL", or "dino:FOLDER". checkpoint_clip, checkpoint_vfm: official checkpoint files to use instead
    of a download. vfm_features: "tokens", or of DINO "q", "k", "v"; vfm_layer: the VFM's block to take them from,
    counted from 1. device: "cpu", "cuda", "mps" or "auto". precision: "fp32", "bf16", "fp16" or "auto", which is bf16 or
    fp16 on an accelerator and fp32, exact, on a CPU.

    options: fields of the method's `Options`: short_side, crop, stride, multiple (pixels), logit_scale, templates, and
    of ProxyCLIP beta and gamma; the paper's values where they are not given. A preset may have values of its own; they
    belong to its pair and do not apply to another CLIP or VFM.

    Raises InputError for unusable values and NotFound for weights that are neither local nor reachable.
    """
    found = find_method(method)
    for file in (checkpoint_clip, checkpoint_vfm):
        if file is not None and not Path(file).is_file():
            raise NotFound(f"checkpoint {file} does not exist")
    given = {"clip": clip, "vfm": vfm, "vfm_layer": vfm_layer}
    models, options = with_preset(preset, given, options, found)
    if models["clip"] is None or (models["vfm"] is None and found.NEEDS_VFM):
        raise InputError(f"name a preset, or a clip and a vfm; presets: {', '.join(preset_names())}")
    check_type("vfm_layer", models["vfm_layer"], int | None)
    options = make_options(found.Options, options, f"method {method}")
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    build_clip.parse(models["clip"])
    check_crop(options.crop, build_clip.patch_size(models["clip"]))
    vfm_model = None
    if found.NEEDS_VFM:
        vfm_model = vfms.load(
            models["vfm"],
            checkpoint_vfm,
            features=vfm_features,
            layer=models["vfm_layer"],
            window=options.crop or ONE_WINDOW,
        )
        check_crop(options.crop, vfm_model.patch_size)
    model = found.Method(build_clip.load(models["clip"], checkpoint_clip), vfm_model, options)
    model.known_words = models["known_words"]
    for half in filter(None, (model.clip, model.vfm)):
        half.name = recorded_name(half.name)
    return model.set_precision(dtype).to(place).eval()


def with_preset(preset: str | None, models: dict, options: dict, method) -> tuple[dict, dict]:
    """The models and options with the preset's in the place of what is not given.

    The preset's options belong to its pair: they apply only where none of the models that the method uses is replaced.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(options.get("templates"), (str, list)):
        given = options["templates"]
        options["templates"] = (given,) if isinstance(given, str) else tuple(given)
    if preset is None:
        return models | {"known_words": None}, options
    pair = find_preset(preset)
    own_clip = models["clip"] in (None, pair.clip)
    own_vfm = not method.NEEDS_VFM or models["vfm"] in (None, pair.vfm)
    if own_clip and own_vfm:
        known = {field.name for field in fields(method.Options)}
        options = {name: value for name, value in pair.options.items() if name in known} | options
    if own_vfm and models["vfm_layer"] is None:
        models = models | {"vfm_layer": pair.vfm_layer}
    return {
        "clip": models["clip"] or pair.clip,
        "vfm": models["vfm"] or pair.vfm,
        "vfm_layer": models["vfm_layer"],
        "known_words": pair.known_words if own_clip else None,
    }, options


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" takes the best one there is."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    kind = device.partition(":")[0]
    if kind not in available:
        raise InputError(f"unknown device {device!r}; {nearest(device, [*available, 'auto'])}")
    if not available[kind]:
        raise InputError(f"device {device!r} is not available to this PyTorch ({torch.__version__}); use cpu or auto")
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The weights' type; "auto" is exact on a CPU and the fast half precision of an accelerator."""
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; {nearest(precision, [*PRECISIONS, 'auto'])}")
    return PRECISIONS[precision]
