"""Vision foundation models (VFMs), which determine which patches belong together.

Each file in this folder is one family of VFMs, and the file name is its name. To add a family, add a file with

    VARIANTS: dict[str, Variant]      the published weights; 'vitb8' in dino.py is known as 'dino-vitb8'
    DEFAULT: str                      the variant used for the name of the family alone
    FEATURES: tuple[str, ...]         the available features: "tokens", and possibly more
    load(variant, source, options)    the model; `source` is None (download), "random", a file, or a folder

Files whose names start with an underscore are shared between families. A VFM is an nn.Module with the attributes
`name`, `patch_size`, `mean` and `std`. It takes images (B, 3, H, W), RGB in [0, 1], normalises them itself, computes in
the data type of its weights, and returns a feature map (B, C, h, w).
"""

import importlib
import os
import pkgutil
from pathlib import Path

from proxyclip.errors import InputError, nearest


def families() -> list[str]:
    """The names of all families, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def family(name: str):
    """The module of one family."""
    return importlib.import_module(f"{__name__}.{name}")


def known() -> list[str]:
    """Every 'family-variant' that can be loaded by name, sorted."""
    return sorted(f"{name}-{variant}" for name in families() for variant in family(name).VARIANTS)


def find(name: str) -> tuple[str, str]:
    """'dino-vitb8' or 'dino' -> family and variant; InputError with the nearest names for an unknown one."""
    kind, _, variant = name.partition("-")
    if kind in families():
        variant = variant or family(kind).DEFAULT
        if not variant or variant in family(kind).VARIANTS:
            return kind, variant
    raise InputError(f"unknown VFM {name!r}; {nearest(name, known())}, or hf:ID for one of the Hugging Face hub")


def load(
    spec: str,
    checkpoint: str | Path | None = None,
    *,
    features: str = "tokens",
    layer: int | None = None,
    window: int = 336,
):
    """A VFM in float32 on the CPU, in evaluation mode, without gradients.

    spec: "dino-vitb8"; "dino" (the family's default); "dino-vitb8:random" (random weights, the same every time);
    "dino-vitb8:FILE" (a checkpoint of the model's authors or of timm, same as `checkpoint`); "dino:FOLDER" (timm's
    layout: config.json and model.safetensors); "hf:ID" or "hf:FOLDER" (any vision backbone of transformers).
    features: "tokens", the patch tokens after the final norm; DINO also gives "q", "k" or "v" of its last block.
    layer: stop after this block, counted from 1 (the final norm still follows); None: after the last.
    window: side in pixels of the sliding window, needed by MAE, which is built for one size.

    Raises InputError for an unknown name or option and for a checkpoint that does not fit, NotFound for a file that
    does not exist and for weights that are neither in the cache nor reachable.
    """
    from proxyclip.backbones.vfm._vit import Options

    name, _, source = str(spec).partition(":")
    kind, variant = find(name)
    if source and checkpoint is not None:
        raise InputError(f"VFM weights are given twice: {spec!r} and checkpoint {str(checkpoint)!r}")
    source = str(checkpoint) if checkpoint is not None else source or None
    if features not in family(kind).FEATURES:
        raise InputError(f"{kind} has no features {features!r}; {nearest(features, family(kind).FEATURES)}")
    if window < 1:
        raise InputError(f"window is {window} pixels; it must be at least 1")
    model = family(kind).load(variant, source, Options(features, layer, window))
    from_folder = source is not None and os.path.isdir(source)
    model.name = f"{kind}:{source}" if from_folder or not variant else f"{kind}-{variant}"
    # Records identify a model by its name, so features and layers other than the default are part of it.
    if features != "tokens":
        model.name += f" {features}"
    if layer is not None:
        model.name += f" layer {layer}"
    return model.eval().requires_grad_(False)
