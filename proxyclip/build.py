"""From names to a model that is ready: checks first, then the VFM and CLIP, then device and precision."""

from pathlib import Path

import torch

from proxyclip.backbones import build_clip as load_clip
from proxyclip.backbones import vfm as vfms
from proxyclip.errors import InputError, NotFound, nearest
from proxyclip.presets import find_preset, preset_names, recorded_name
from proxyclip.segmentor import ATTENTIONS, ProxyCLIP, check_crop
from proxyclip.sliding import Windows
from proxyclip.text import check_templates, default_templates

MAE_SIZE = 224  # MAE is built for the window's size; without windows for its own
PAPER = {
    "beta": 1.2,
    "gamma": 3.0,
    "short_side": 336,
    "crop": 336,
    "stride": 112,
    "multiple": 56,
    "logit_scale": 40.0,
    "templates": None,
    "vfm_layer": None,
    "known_words": None,
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(
    preset: str | None = None,
    *,
    clip: str | None = None,
    vfm: str | None = None,
    checkpoint_clip: str | Path | None = None,
    checkpoint_vfm: str | Path | None = None,
    attention: str = "proxy",
    beta: float | None = None,
    gamma: float | None = None,
    short_side: int | None = None,
    crop: int | None = None,
    stride: int | None = None,
    templates=None,
    vfm_features: str = "tokens",
    vfm_layer: int | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> ProxyCLIP:
    """A model that segments, by the name of a pair (`proxyclip.presets()` lists them) or of its two halves.

    clip: "ViT-B-16:openai", open_clip's names for architecture and weights; "ViT-B-16:random" for seeded random
    weights; or a folder in open_clip's layout. vfm: "dino-vitb8" and the like, "hf:ORGANISATION/MODEL", or
    "dino:FOLDER". checkpoint_clip, checkpoint_vfm: official checkpoint files to use instead of a download.
    attention: "proxy", or for comparison "value" (MaskCLIP) or "vanilla" (CLIP's own last block); those need no VFM.
    beta, gamma: of the proxy attention (the paper's 1.2 and 3). short_side, crop, stride: in pixels, what the
    photograph is resized to and how it is cut (336, 336 and 112; short_side 0: not resized; crop 0: one window).
    templates: prompts with a {} for the name (CLIP's 80). vfm_features: "tokens", or of DINO "q", "k", "v"; vfm_layer:
    the VFM's block to take them from, counted from 1. A preset may have settings of its own.
    device: "cpu", "cuda", "mps" or "auto". precision: "fp32", "bf16", "fp16" or "auto", which is bf16 or fp16 on an
    accelerator and fp32, exact, on a CPU.

    Raises InputError for unusable values and NotFound for weights that are neither local nor reachable.
    """
    if attention not in ATTENTIONS:
        raise InputError(f"unknown attention {attention!r}; {nearest(attention, ATTENTIONS)}")
    for file in (checkpoint_clip, checkpoint_vfm):
        if file is not None and not Path(file).is_file():
            raise NotFound(f"checkpoint {file} does not exist")
    settings = dict(PAPER)
    if preset is not None:
        pair = find_preset(preset)
        clip, vfm = clip or pair.clip, vfm or pair.vfm
        settings |= pair.settings
    if clip is None or (vfm is None and attention == "proxy"):
        raise InputError(f"name a preset, or a clip and a vfm; presets: {', '.join(preset_names())}")
    given = {"beta": beta, "gamma": gamma, "short_side": short_side, "crop": crop, "stride": stride}
    given |= {"templates": templates, "vfm_layer": vfm_layer}
    settings |= {name: value for name, value in given.items() if value is not None}
    check_settings(settings)
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    load_clip.parse(clip)
    check_crop(settings["crop"], load_clip.patch_size(clip))
    if attention == "proxy":
        vfms.find(vfm.partition(":")[0])
    seen = None
    if attention == "proxy":
        window = settings["crop"] or MAE_SIZE
        seen = vfms.load(vfm, checkpoint_vfm, features=vfm_features, layer=settings["vfm_layer"], window=window)
    model = ProxyCLIP(
        load_clip.load(clip, checkpoint_clip),
        seen,
        default_templates() if settings["templates"] is None else check_templates(settings["templates"]),
        attention,
        settings["beta"],
        settings["gamma"],
        settings["short_side"],
        Windows(settings["crop"], settings["stride"], settings["multiple"]),
        settings["logit_scale"],
        settings["known_words"],
    )
    for half in filter(None, (model.clip, model.vfm)):
        half.name = recorded_name(half.name)
    return model.set_precision(dtype).to(place).eval()


def check_settings(settings: dict) -> None:
    """What can be said before a model is loaded."""
    for name in ("beta", "gamma", "short_side", "crop", "stride"):
        if not isinstance(settings[name], (int, float)):
            raise InputError(f"{name} must be a number, not {settings[name]!r}")
    Windows(settings["crop"], settings["stride"], settings["multiple"])
    if settings["templates"] is not None:
        check_templates(settings["templates"])
    if settings["short_side"] < 0:
        raise InputError(f"short_side is {settings['short_side']}; choose a length in pixels, or 0 to resize nothing")
    if not (settings["beta"] >= 0 and settings["gamma"] > 0):
        wrong = f"beta is {settings['beta']} and gamma {settings['gamma']}"
        raise InputError(f"{wrong}; beta must not be negative and gamma must be positive")


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
