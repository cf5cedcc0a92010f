"""Turns checkpoints into the files that are shipped: open_clip's and timm's own folder layouts, weights in fp16."""

import json
from pathlib import Path

import torch
from safetensors.torch import save

from datasets import scenes
from proxyclip.errors import NotFound
from proxyclip.files import write_whole
from tools import mini_clip, mini_vfm, mini_words

# Options for inference, chosen on the "tune" scenes. Windows are padded to a multiple of the CLIP's patch.
OPTIONS = {
    "short_side": 128,
    "crop": 64,
    "stride": 32,
    "multiple": 8,
    "logit_scale": 40.0,
    "templates": list(mini_words.TEMPLATES),
}
METHODS = {  # of one method each: `benchmarks/methods.py --choose`, and for ProxyCLIP `benchmarks/method_settings.py`
    "gem": {"blocks": 2, "iterations": 0},
    "glaclip": {"similarity": 0.97, "gamma_growth": 3000.0},
    "naclip": {"std": 2.0},
    "pearl": {"alpha": 0.3},
    "proxyclip": {"beta": 1.2, "gamma": 20.0},
    "resclip": {"std": 1.0, "residual_weight": 0.6},
    "scclip": {"min_similarity": 0.8, "class_weight": 0.0},
}
VFM_LAYER = 2  # counted from 1; the last norm follows it


def write(out: Path, clip_checkpoint: Path, vfm_checkpoint: Path, vocabulary: Path):
    """Writes `clip/`, `vfm/` and `mini.json` under `out`; NotFound for a checkpoint that is not there."""
    reader = mini_words.Reader(vocabulary, context=32)
    config = mini_clip.model_config(reader.tokenizer.vocab_size, vocabulary.name)
    _write_json(
        out / "clip" / "open_clip_config.json",
        {
            "model_cfg": config,
            "preprocess_cfg": {
                "mean": list(mini_clip.MEAN),
                "std": list(mini_clip.DEVIATION),
                "interpolation": "bilinear",
            },
        },
    )
    clip, vit = _part(clip_checkpoint, "clip."), _part(vfm_checkpoint, "vit.")
    _write_weights(out / "clip" / "open_clip_model.safetensors", clip)
    _replace(out / "clip" / vocabulary.name, vocabulary.read_bytes())
    _write_json(
        out / "vfm" / "config.json",
        {
            "architecture": mini_vfm.ARCHITECTURE,
            "model_args": mini_vfm.MODEL_ARGS,
            "pretrained_cfg": {
                "input_size": [3, mini_vfm.CROP, mini_vfm.CROP],
                "mean": [0.5] * 3,
                "std": [0.5] * 3,
                "num_classes": 0,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
        },
    )
    _write_weights(out / "vfm" / "model.safetensors", vit)
    words = sorted({name for names in scenes.SYNONYMS.values() for name in names} | set(mini_words.colour_names()))
    count = sum(tensor.numel() for tensor in [*clip.values(), *vit.values()])
    _write_json(
        out / "mini.json",
        {"parameters": count, "vfm_layer": VFM_LAYER, "options": OPTIONS, "methods": METHODS, "known_words": words},
    )


def _part(checkpoint: Path, prefix: str):
    """The tensors of one submodule of a checkpoint's module."""
    if not checkpoint.is_file():
        raise NotFound(f"there is no checkpoint {checkpoint}: train that model first, with the same seed and samples")
    module = torch.load(checkpoint, weights_only=True, map_location="cpu")["module"]
    return {name.removeprefix(prefix): tensor for name, tensor in module.items() if name.startswith(prefix)}


def _write_weights(path: Path, tensors: dict):
    _replace(path, save({name: tensor.half().contiguous() for name, tensor in tensors.items()}))


def _write_json(path: Path, content: dict):
    _replace(path, (json.dumps(content, indent=1) + "\n").encode())


def _replace(path: Path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(content))
