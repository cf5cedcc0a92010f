"""Tiny CLIPs of open_clip with random weights that all matter, in memory and on disk, and whole tiny models."""

import json
from copy import deepcopy
from functools import cache

import numpy as np
import tiny_vfm
from safetensors.torch import save_file
from tiny_model import CLIP

from proxyclip.backbones.checkpoints import fixed_seed, import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.vfm.dino import DINO
from proxyclip.methods import find_method
from proxyclip.segmentor import Segmentor

TEMPLATES = ("a {}.", "a photo of a {}")


def config(vision=(), text=(), **others) -> dict:
    """open_clip's configuration of the tiny CLIP, with changes."""
    changed = deepcopy(CLIP) | others
    changed["vision_cfg"] |= dict(vision)
    changed["text_cfg"] |= dict(text)
    return changed


@cache
def tokenizer():
    """CLIP's own."""
    return import_library("open_clip").get_tokenizer("ViT-B-16")


def open_clip_model(**changes):
    """open_clip's model; the same weights every time."""
    with fixed_seed():
        return tiny_vfm.shake(import_library("open_clip").CLIP(**config(**changes)))


def clip(**changes) -> DenseCLIP:
    """The same, ready to segment."""
    open_clip = import_library("open_clip")
    statistics = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    return DenseCLIP(open_clip_model(**changes), tokenizer(), *statistics, "tiny")


def vfm(channels: int = 48) -> DINO:
    """A DINO of 3 layers with patches of 8 pixels and a native side of 64."""
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": channels, "depth": 2, "num_heads": 3, "num_classes": 0}
    with fixed_seed():
        model = DINO(tiny_vfm.shake(import_library("timm").models.VisionTransformer(**sizes)))
    model.name = "tiny"
    return model


def model(method: str = "proxyclip", **options) -> Segmentor:
    """A whole model; by default images keep their size."""
    parts = {"clip": options.pop("clip", None) or clip(), "vfm": options.pop("vfm", None) or vfm()}
    found = find_method(method)
    known_words = options.pop("known_words", None)
    options = found.Options(**{"templates": TEMPLATES, "short_side": 0} | options)
    parts["vfm"] = parts["vfm"] if found.NEEDS_VFM else None
    return found.Method(**parts, options=options, known_words=known_words).eval()


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: soft blobs of colour with some noise, so that patches differ."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + c) + np.cos(y / b + d) for a, b, c, d in generator.uniform(2, 12, (3, 4))]
    return (np.stack(waves, -1) * 50 + 128 + generator.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)


def save_folder(folder, state: dict | None = None, **changes) -> str:
    """open_clip's folder layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config(**changes), "preprocess_cfg": {}}))
    state = open_clip_model(**changes).state_dict() if state is None else state
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    return str(folder)
