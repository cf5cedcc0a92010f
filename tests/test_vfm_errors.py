"""What bad input gets from the VFMs: one sentence, before anything is built where that is possible."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny_vfm import tiny

from proxyclip.backbones import vfm
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.vfm import dinov2
from proxyclip.backbones.vfm._vit import Variant
from proxyclip.errors import InputError, NotFound


@pytest.mark.parametrize("name", ["dino-vitb8", "mae", "sam", "hf:facebook/dinov2-base"])
def test_weights_neither_cached_nor_reachable(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        NotFound, match=r"neither in the cache .* nor reachable .*https://huggingface.co/.*/resolve/main"
    ):
        vfm.load(name)


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("dinov2:random", {"features": "k"}, "dinov2 has no features 'k'"),
        ("dino:random", {"features": "keys"}, "dino has no features 'keys'"),
        ("mae:random", {"window": 0}, "window is 0 pixels"),
        ("dino-vits16:random", {"layer": 13}, "layer 13 does not exist: the model has layers 1 to 12"),
        ("dino:random", {"checkpoint": "file.pth"}, "given twice"),
        ("hf", {}, "hf needs an id or a folder"),
    ],
)
def test_options_that_cannot_be(spec, options, sentence):
    with pytest.raises(InputError, match=sentence):
        vfm.load(spec, **options)


@pytest.mark.parametrize("spec", ["dino:/no/such.pth", "sam:/no/such.pth", "hf:/no/such/folder", "hf:two words"])
def test_file_that_does_not_exist(spec):
    with pytest.raises(NotFound, match="does not exist|neither a folder nor an id"):
        vfm.load(spec)


def test_pickle_with_an_object_is_refused(tmp_path):
    torch.save({"model": {"w": torch.zeros(1)}, "args": SimpleNamespace(lr=1)}, tmp_path / "mae.pth")
    with pytest.raises(InputError, match="rejected: it contains Python objects besides tensors"):
        vfm.load("mae", tmp_path / "mae.pth")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "is not a valid timm configuration"),
        ('{"model_args": {}}', "is not a valid timm configuration .*architecture"),
        ('{"architecture": "vit_nonsense"}', "timm cannot build 'vit_nonsense'"),
        ('{"architecture": "vit_tiny_patch16_224", "model_args": {"nonsense": 1}}', "timm cannot build .*nonsense"),
        ('{"architecture": "resnet10t"}', "'resnet10t', which is not a VisionTransformer"),
    ],
)
def test_folder_that_is_no_model(tmp_path, config, sentence):
    (tmp_path / "config.json").write_text(config)
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=sentence):
        vfm.load("dino", tmp_path)


def test_empty_folder_and_sam_folder(tmp_path):
    with pytest.raises(NotFound, match="has no config.json"):
        vfm.load("dino", tmp_path)
    with pytest.raises(NotFound, match="model.safetensors does not exist"):
        vfm.load("sam", tmp_path)


def test_hugging_face_folders_that_cannot_be_used(tmp_path):
    transformers = import_library("transformers")
    with pytest.raises(InputError, match="transformers cannot load"):
        vfm.load(f"hf:{tmp_path}")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.BertConfig(**small, vocab_size=10).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not a vision backbone"):
        vfm.load(f"hf:{tmp_path}")
    transformers.ViTMAEConfig(**small).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="masks patches at random"):
        vfm.load(f"hf:{tmp_path}")
    model = transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=8))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="hf:.* cannot stop after layer 2"):
        vfm.load(f"hf:{tmp_path}", layer=2)
    state = model.state_dict()
    del state["embeddings.patch_embeddings.projection.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="lacks 1 weights of the image encoder .*projection.weight"):
        vfm.load(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    torch.save(SimpleNamespace(lr=1), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="transformers cannot load"):
        vfm.load(f"hf:{tmp_path}")


@pytest.mark.parametrize("spec", ["dyno-vitb8", "dino-vitb9", "dinov2-vitb16-reg", "hf-vit", "", "_vit"])
def test_unknown_names(spec):
    with pytest.raises(InputError, match="unknown VFM .*Known: dino-vitb16, "):
        vfm.load(spec)


def test_nearest_name_is_suggested():
    with pytest.raises(InputError, match="did you mean dino-vitb8"):
        vfm.load("dino-vitb9")


def test_checkpoint_of_another_architecture(tmp_path, monkeypatch):
    torch.save(tiny("dino").vit.state_dict(), tmp_path / "dino.pth")
    monkeypatch.setitem(dinov2.VARIANTS, "test", Variant("test_vit3", 0, ""))
    shapes = r"of another shape \(.* is \(1, 65, 48\), not \(1, 101, 96\)"
    sentence = rf"does not match the model's architecture: \d+ missing \(.*{shapes}"
    with pytest.raises(InputError, match=sentence):
        vfm.load("dinov2-test", tmp_path / "dino.pth")
