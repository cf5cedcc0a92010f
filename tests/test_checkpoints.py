"""Random weights that are always the same ones, weights that cannot be used, and where the cache is."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_clip
import torch
from safetensors.torch import save_file
from test_vfm_library import SMALL, saved
from tiny_vfm import sam_encoder, save_folder, tiny
from torch import nn

from proxyclip.backbones import build_clip, vfm
from proxyclip.backbones.checkpoints import cache_folder, fixed_seed, import_library, load_strict
from proxyclip.errors import InputError

PACKAGE = Path(__file__).parents[1] / "proxyclip"


def weights():
    with fixed_seed():
        return nn.Linear(3, 4).weight


def test_always_the_same():
    first = weights()
    torch.manual_seed(7)
    torch.rand(3)
    assert torch.equal(weights(), first)


def test_the_callers_generators_are_left_alone(monkeypatch):
    """Also those of accelerators, which torch.manual_seed would reseed."""
    reseeded = []
    for module, name in ((torch.cuda, "manual_seed_all"), (torch.mps, "manual_seed"), (torch.xpu, "manual_seed_all")):
        monkeypatch.setattr(module, name, lambda seed, name=name: reseeded.append(name))
    torch.default_generator.manual_seed(3)
    before = torch.get_rng_state()
    weights()
    assert reseeded == []
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), fixed_seed():
        torch.rand(3) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_defaults_do_not_matter():
    expected = weights()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(weights(), expected)
            assert torch.zeros(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_other_place_seeds():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.manual_seed", "torch.random.manual_seed"), file


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


@pytest.mark.parametrize("make", [clip, timm, sam, transformers])
def test_every_loader_refuses_weights_that_cannot_be_used(tmp_path, monkeypatch, make):
    registry = import_library("segment_anything").sam_model_registry
    monkeypatch.setitem(registry, "vit_b", lambda: SimpleNamespace(image_encoder=sam_encoder()))
    name, load = make(tmp_path, SPOILT["nan"])
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert name in message and str(tmp_path) in message and "not finite" in message and "\n" not in message
    name, load = make(tmp_path, lambda value: value.double())
    load()  # so it is the values that were refused


@pytest.mark.parametrize("kind", SPOILT)
def test_values_that_no_weight_has(kind):
    layer = nn.Linear(3, 2)
    state = layer.state_dict()
    reason = f"weight is {kind}" if kind in ("int64", "uint8", "bool", "complex64") else "weight .*not finite"
    with pytest.raises(InputError, match=f"file .*{reason}"):
        load_strict(layer, state | {"weight": SPOILT[kind](state["weight"])}, "file")
    load_strict(layer, state | {"weight": state["weight"].double()}, "file")


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


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PROXYCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "proxyclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform != "win32":
        assert cache_folder() == tmp_path / ".cache" / "proxyclip"
