"""Weights that are not finite or not floating-point numbers: refused at load, with file and tensor named."""

from types import SimpleNamespace

import pytest
import tiny_clip
import torch
from safetensors.torch import save_file
from test_vfm_library import SMALL, saved
from tiny_vfm import sam_encoder, save_folder, tiny
from torch import nn

from proxyclip.backbones import build_clip, vfm
from proxyclip.backbones.checkpoints import import_library, load_strict
from proxyclip.errors import InputError

SPOILT = {
    "nan": lambda value: value.clone().index_fill_(0, torch.tensor([0]), float("nan")),
    "inf": lambda value: value.clone().index_fill_(0, torch.tensor([0]), float("inf")),
    "-inf": lambda value: value.clone().index_fill_(0, torch.tensor([0]), float("-inf")),
    "overflow": lambda value: value.double() * 1e300,
    "int64": lambda value: value.long(),
    "uint8": lambda value: value.byte(),
    "bool": lambda value: value > 0,
    "complex64": lambda value: value.to(torch.complex64),
}


def clip(folder, spoil):
    state = tiny_clip.open_clip_model().state_dict()
    name = "visual.ln_post.weight"
    path = tiny_clip.save_folder(folder / "clip", state | {name: spoil(state[name])})
    return name, lambda: build_clip.load(path)


def timm(folder, spoil):
    state = tiny("dino").vit.state_dict()
    name = "blocks.1.attn.qkv.bias"
    path = save_folder(folder / "vfm", "dino", state | {name: spoil(state[name])})
    return name, lambda: vfm.load(f"dino:{path}")


def sam(folder, spoil):
    state = sam_encoder().state_dict()
    name = "blocks.0.attn.rel_pos_h"
    torch.save(state | {name: spoil(state[name])}, folder / "sam.pth")
    return name, lambda: vfm.load("sam", folder / "sam.pth")


def transformers(folder, spoil):
    state = saved(folder, "Dinov2Config", **SMALL).state_dict()
    name = "encoder.layer.1.norm1.weight"
    save_file(state | {name: spoil(state[name])}, folder / "model.safetensors", {"format": "pt"})
    return name, lambda: vfm.load(f"hf:{folder}")


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("make", [clip, timm, sam, transformers])
def test_unusable_weights(tmp_path, monkeypatch, make, kind):
    registry = import_library("segment_anything").sam_model_registry
    monkeypatch.setitem(registry, "vit_b", lambda: SimpleNamespace(image_encoder=sam_encoder()))
    name, load = make(tmp_path, SPOILT[kind])
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert name in message and str(tmp_path) in message and "\n" not in message
    values = "is " + kind if kind in ("int64", "uint8", "bool", "complex64") else "not finite"
    assert values in message
    name, load = make(tmp_path, lambda value: value.double())
    load()  # so it is the values that were refused


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("position_ids", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("none", torch.zeros(0))


def test_buffers_may_be_integers_where_the_module_s_own_are():
    module = Buffers()
    state = {
        "weight": torch.ones(2, dtype=torch.float16),
        "position_ids": torch.arange(3, dtype=torch.int32),
        "mask": torch.ones(3, dtype=torch.bool),
        "none": torch.zeros(0),
    }
    load_strict(module, state, "file")
    assert module.position_ids.tolist() == [0, 1, 2] and module.weight.tolist() == [1, 1] and module.mask.all()
    for name, value in (("position_ids", torch.zeros(3)), ("mask", torch.zeros(3)), ("weight", torch.zeros(2).int())):
        with pytest.raises(InputError, match=f"file cannot be used: {name} is "):
            load_strict(module, state | {name: value}, "file")


def test_many_tensors_make_a_short_sentence():
    state = {name: value * float("nan") for name, value in tiny_clip.open_clip_model().state_dict().items()}
    with pytest.raises(InputError, match=r"in all\) contain values that are not finite") as caught:
        load_strict(tiny_clip.open_clip_model(), state, "file")
    assert len(str(caught.value)) < 400
