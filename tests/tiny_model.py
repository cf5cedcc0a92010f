"""A whole model small enough to evaluate with: a CLIP and a VFM with random weights, in folders."""

import json
from pathlib import Path

import tiny_vfm
import torch
from safetensors.torch import save_file

from proxyclip.backbones.checkpoints import fixed_seed, import_library

torch.set_num_threads(1)  # the threads of a tiny model wait for each other longer than they compute

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save(folder: Path) -> list[str]:
    """Writes both; returns what eval.py's --set needs to use them quickly: small windows and one prompt a class."""
    (folder / "clip").mkdir(parents=True)
    with fixed_seed():
        clip = tiny_vfm.shake(import_library("open_clip").CLIP(**CLIP))
    weights = {name: value.contiguous() for name, value in clip.state_dict().items()}
    save_file(weights, folder / "clip" / "open_clip_model.safetensors")
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    vfm = tiny_vfm.save_folder(folder / "vfm", "dino", tiny_vfm.timm_model("dino").state_dict())
    model = [f"clip={folder / 'clip'}", f"vfm=dino:{vfm}", "templates={}"]
    return [*model, "short_side=40", "crop=32", "stride=16"]
