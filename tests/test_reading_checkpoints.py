"""Checkpoints as people have them: what is beside, around and in place of the weights, and before their names."""

import argparse
import pathlib

import numpy as np
import pytest
import tiny_clip
import tiny_vfm
import torch
from safetensors.torch import save_file

import heads
from proxyclip.backbones import build_clip, vfm
from proxyclip.backbones.checkpoints import import_library, read_checkpoint
from proxyclip.backbones.vfm import dino, dinov3
from proxyclip.backbones.vfm._vit import Variant
from proxyclip.errors import InputError

WEIGHTS = {"a.weight": torch.ones(2), "b.bias": torch.zeros(3)}


def assert_read(file):
    found = read_checkpoint(file)
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in found)


@pytest.mark.parametrize("beside", [
    {"meta": {"hook_msgs": {"best_score": np.float64(0.8), "last": np.float32(0.5), "epoch": np.int64(3)}}},
    {"meta": {"PALETTE": np.zeros((2, 3), int), "CLASSES": np.array(["sky", "car"])}},
    {"args": argparse.Namespace(lr=0.1, output_dir=pathlib.Path("runs"), pure=pathlib.PureWindowsPath("C:/a"))},
    {"epoch": 3, "hyper_parameters": {"lr": np.float16(0.1)}, "object": np.array([{"a": 1}, None], dtype=object)},
])  # fmt: skip
@pytest.mark.parametrize("old", [False, True])
def test_values_beside_the_weights_are_passed_over(tmp_path, beside, old):
    file = tmp_path / "a.pth"
    torch.save({"state_dict": WEIGHTS, **beside}, file, _use_new_zipfile_serialization=not old)
    assert_read(file)


class Chained:
    """Would be the result of `eval` on a text, if names were looked up."""

    def __reduce__(self):
        return getattr, (pathlib.PurePosixPath, "as_posix")


def test_a_name_that_is_looked_up_is_nothing_that_can_be_called(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"state_dict": WEIGHTS, "object": Chained()}, file)
    assert_read(file)
    assert type(torch.load(file, weights_only=False)["object"]).__name__ == "function"  # so there was something


@pytest.mark.parametrize("prefix", [
    "module.", "module.module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "module._orig_mod.module.",
])  # fmt: skip
def test_marks_of_parallel_training_and_of_compiling(tmp_path, prefix):
    torch.save({"model": {prefix + name: value for name, value in WEIGHTS.items()}}, tmp_path / "a.pth")
    assert_read(tmp_path / "a.pth")


@pytest.mark.parametrize("wrap", [
    lambda state: {"ema": state}, lambda state: {"state_dict_ema": state}, lambda state: {"net": state, "epoch": 3},
    lambda state: {"teacher": state, "student": {"c": torch.zeros(1)}}, lambda state: {"net": {"state_dict": state}},
    lambda state: {"state_dict": state, "state_dict_ema": {"c": torch.zeros(1)}},
    lambda state: {"model": {"model": {"ema": state}}},
])  # fmt: skip
def test_wrappers(tmp_path, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / "a.pth")
    assert_read(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors"])
@pytest.mark.parametrize(("content", "words"), [
    ("<!DOCTYPE html><html>Sign in</html>", "is not a checkpoint: it is a web page: download the file itself"),
    ("\n  <html><body>404", "is not a checkpoint: it is a web page"),
    ('<?xml version="1.0"?><Error>AccessDenied</Error>', "is not a checkpoint: it is a web page"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "is not a checkpoint: it is a Git LFS pointer"),
    ("", "cannot be read .*: damaged, or not a"),
])  # fmt: skip
def test_what_is_often_saved_in_their_place(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    for load in (read_checkpoint, heads.open_checkpoint):
        with pytest.raises(InputError, match=f"{name} {words}"):
            load(tmp_path / name)


@pytest.fixture
def small_variants(monkeypatch):
    monkeypatch.setitem(dino.VARIANTS, "test", Variant("test_vit", 0, ""))
    monkeypatch.setitem(dinov3.VARIANTS, "test", Variant("vit_small_patch16_dinov3", 0, ""))


@pytest.mark.parametrize(("vfm_name", "names", "words"), [
    ("dino-test", ("embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight"),
     "is a model as transformers stores it: put it into a folder with its config.json, and name that as hf:FOLDER"),
    ("dino-test", ("vit.embeddings.cls_token", "vit.encoder.layer.0.output.dense.weight"), ".* as hf:FOLDER"),
    ("dinov3-test", ("layer.0.attention.q_proj.weight", "embeddings.mask_token"), ".* as hf:FOLDER"),
    ("dinov3-test", ("cls_token", "storage_tokens", "rope_embed.periods", "blocks.0.ls1.gamma"),
     "is DINOv3 as Meta stores it: use timm's file of it, or transformers' as hf:FOLDER"),
])  # fmt: skip
def test_layouts_that_are_not_read_are_named(tmp_path, small_variants, vfm_name, names, words):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"a.safetensors {words}"):
        vfm.load(vfm_name, tmp_path / "a.safetensors")


def test_clip_of_transformers_is_named(tmp_path):
    names = "vision_model.embeddings.class_embedding", "text_model.final_layer_norm.bias", "logit_scale"
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    folder = tiny_clip.save_folder(tmp_path / "clip")
    with pytest.raises(InputError, match="a.safetensors is CLIP as transformers stores it: use open_clip's file"):
        build_clip.load(folder, tmp_path / "a.safetensors")


@pytest.mark.parametrize(("variant", "registers", "other"), [
    ("dinov2", False, "vitb14"), ("dinov2-vits14-reg", False, "vits14"), ("dinov2-vits14", True, "vits14-reg"),
])  # fmt: skip
@pytest.mark.parametrize("official", [False, True])
def test_registers_tell_the_variant_of_dinov2(tmp_path, variant, registers, other, official):
    vit = tiny_vfm.timm_model("dinov2", registers)
    state = tiny_vfm.official_state("dinov2", vit) if official else vit.state_dict()
    torch.save(state, tmp_path / "a.pth")
    has = "" if registers else "no "
    with pytest.raises(InputError, match=f"a.pth has {has}registers: load it as dinov2-{other}$"):
        vfm.load(variant, tmp_path / "a.pth")


def test_a_teacher_with_a_head(tmp_path, small_variants):
    """As DINO's own training writes it."""
    vit = import_library("timm").create_model("test_vit", num_classes=0)
    teacher = {f"module.backbone.{name}": value for name, value in vit.state_dict().items()}
    teacher |= {"module.head.mlp.0.weight": torch.zeros(3)}
    torch.save({"student": {"a": torch.zeros(1)}, "teacher": teacher}, tmp_path / "a.pth")
    found = vfm.load("dino-test", tmp_path / "a.pth").vit.state_dict()
    assert all(torch.equal(found[name], value) for name, value in vit.state_dict().items())
