"""Loads timm models: by name, from a checkpoint of the authors or of timm, or from a folder in timm's layout."""

import json
import os
from pathlib import Path

from torch import Tensor

from proxyclip.backbones.random_weights import fixed_seed
from proxyclip.backbones.torchvision_shim import import_library
from proxyclip.backbones.vfm._vfm import IMAGENET_MEAN, IMAGENET_STD, VFM, Variant, first_blocks
from proxyclip.backbones.weights import download, load_strict, read_checkpoint
from proxyclip.errors import InputError, NotFound


def load_timm(
    make, variant: Variant, source: str | None, from_official, layer: int | None, kind: str = "VisionTransformer"
) -> VFM:
    """`make(vit, mean=…, std=…)` of a timm model with the weights of `source` in it (see proxyclip.backbones.vfm.load).

    `from_official` renames the weights of the authors' checkpoints to timm's names; `kind` is timm's class.
    """
    timm = import_library("timm")
    architecture, arguments, settings = variant.architecture, {}, {}
    if source is not None and os.path.isdir(source):
        architecture, arguments, settings = read_folder(Path(source))
        source = str(Path(source) / "model.safetensors")
    if source != "random":
        source = source or download(
            variant.repository, ("model.safetensors",), f"VFM {architecture}", "--checkpoint-vfm"
        )
        state = from_official(without_head(read_checkpoint(source)))
    with fixed_seed():
        try:
            vit = timm.create_model(architecture, **{**arguments, "num_classes": 0})
        except (RuntimeError, TypeError) as error:
            raise InputError(f"timm cannot build {architecture!r} with {arguments}: {error}") from error
    if type(vit).__name__ != kind:
        raise InputError(f"the folder's config.json names {architecture!r}, which is not a {kind}")
    if source != "random":
        load_strict(vit, state, str(source))
    vit.blocks = first_blocks(vit.blocks, layer)
    return make(vit, mean=settings.get("mean", IMAGENET_MEAN), std=settings.get("std", IMAGENET_STD))


def read_folder(folder: Path) -> tuple[str, dict, dict]:
    """Architecture, its arguments and the preprocessing from timm's config.json."""
    file = folder / "config.json"
    if not file.is_file():
        raise NotFound(f"folder {folder} has no config.json: it is not a model in timm's layout")
    try:
        config = json.loads(file.read_text())
        return config["architecture"], config.get("model_args", {}), config.get("pretrained_cfg", {})
    except (ValueError, KeyError) as error:
        raise InputError(f"{file} is not a valid timm configuration ({type(error).__name__}: {error})") from error


def without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those of a classifier, which some files carry along."""
    return {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm."))}
