"""VFMs by name, from files of either layout, from folders, with random weights."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny_vfm import GRID, images, official_state, sam_encoder, save_folder, tiny

from proxyclip.backbones import vfm
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.layers import Normalise
from proxyclip.backbones.vfm import dino, sam
from proxyclip.backbones.vfm._vit import Variant
from proxyclip.errors import InputError


def test_families_are_the_files():
    assert vfm.families() == ["dino", "dinov2", "dinov3", "hf", "mae", "sam"]


def test_default_is_a_variant():
    for name in vfm.families():
        module = vfm.family(name)
        assert module.DEFAULT in module.VARIANTS or (name, module.DEFAULT) == ("hf", "")
    assert vfm.find("dinov2") == ("dinov2", "vitb14-reg")
    assert vfm.find("dino-vits16") == ("dino", "vits16")


@pytest.mark.parametrize("name", vfm.known())
def test_table_agrees_with_timm(name):
    timm = import_library("timm")
    family, variant = vfm.find(name)
    entry = vfm.family(family).VARIANTS[variant]
    published = timm.get_pretrained_cfg(entry.architecture)
    assert entry.licence == published.license
    assert entry.repository == published.hf_hub_id
    with torch.device("meta"):
        model = timm.create_model(entry.architecture, num_classes=0)
    assert entry.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert entry.megabytes == pytest.approx(entry.parameters * 4 / 1e6)


@pytest.mark.parametrize("variant", ["vitb", "vitl", "vith"])
def test_sam_of_timm_has_the_names_of_segment_anything(variant):
    registry = import_library("segment_anything").sam_model_registry
    with torch.device("meta"):
        encoder = registry[f"vit_{variant[-1]}"]().image_encoder
        theirs = import_library("timm").create_model(sam.VARIANTS[variant].architecture, num_classes=0).state_dict()
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    assert {name: value.shape for name, value in sam.from_official(theirs).items()} == shapes


@pytest.mark.parametrize("name", ["dino", "dinov2", "dinov2-reg", "mae"])
@pytest.mark.parametrize("layout", ["official", "timm"])
def test_files_of_either_layout(tmp_path, name, layout):
    family, _, registers = name.partition("-")
    model = tiny(name)
    state = official_state(family, model.vit) if layout == "official" else model.vit.state_dict()
    state |= {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)}
    folder = save_folder(tmp_path / "model", family, state, bool(registers), mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    loaded = vfm.load(f"{family}:{folder}", window=96)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    assert (loaded.name, loaded.patch_size) == (f"{family}:{folder}", GRID[family][1])
    assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    model.normalise = Normalise(loaded.mean, loaded.std)
    torch.testing.assert_close(loaded(images(1, 90, 122)), model(images(1, 90, 122)), atol=2e-5, rtol=0)


def test_folder_of_dinov3(tmp_path):
    model = tiny("dinov3")
    loaded = vfm.load("dinov3", save_folder(tmp_path / "model", "dinov3", model.vit.state_dict()))
    torch.testing.assert_close(loaded(images(1, 90, 122)), model(images(1, 90, 122)), atol=0, rtol=0)


def test_official_sam_file(tmp_path, monkeypatch):
    encoder = sam_encoder()
    registry = import_library("segment_anything").sam_model_registry
    monkeypatch.setitem(registry, "vit_b", lambda: SimpleNamespace(image_encoder=sam_encoder()))
    state = {f"image_encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 8)}, tmp_path / "sam_vit_b.pth")
    timms = {name.replace(".mlp.lin", ".mlp.fc"): value for name, value in encoder.state_dict().items()}
    save_file(timms, tmp_path / "timm.safetensors")
    for file in ("sam_vit_b.pth", "timm.safetensors"):
        loaded = vfm.load("sam-vitb", tmp_path / file)
        assert torch.equal(loaded(images(1, 50, 70)), sam.SAM(encoder)(images(1, 50, 70)))
    (tmp_path / "timm.safetensors").rename(tmp_path / "model.safetensors")
    loaded = vfm.load(f"sam-vitb:{tmp_path}")
    assert torch.equal(loaded(images(1, 50, 70)), sam.SAM(encoder)(images(1, 50, 70)))


def test_random_weights_and_files_by_variant(tmp_path, monkeypatch):
    monkeypatch.setitem(dino.VARIANTS, "test", Variant("test_vit", 0, ""))  # timm's smallest
    before = torch.random.get_rng_state()
    model = vfm.load("dino-test:random")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.name == "dino-test"
    torch.manual_seed(5)
    again = vfm.load("dino-test:random").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    state = {f"module.{name}": value + 0.5 for name, value in model.vit.state_dict().items()}
    torch.save({"teacher": state}, tmp_path / "dino.pth")
    for loaded in (vfm.load(f"dino-test:{tmp_path / 'dino.pth'}"), vfm.load("dino-test", tmp_path / "dino.pth")):
        assert torch.equal(loaded.vit.cls_token, model.vit.cls_token + 0.5)


def test_sam_layers(monkeypatch):
    registry = import_library("segment_anything").sam_model_registry
    monkeypatch.setitem(registry, "vit_b", lambda: SimpleNamespace(image_encoder=sam_encoder()))
    assert len(vfm.load("sam:random", layer=2).encoder.blocks) == 2
    with pytest.raises(InputError, match="layer 4 does not exist: the model has layers 1 to 3"):
        vfm.load("sam:random", layer=4)


def test_layer_stops_early_and_keeps_the_final_norm(tmp_path):
    model = tiny("dino")
    folder = save_folder(tmp_path / "model", "dino", model.vit.state_dict())
    whole = model.vit.forward_intermediates(
        model.prepare(images(1, 64, 64)), indices=[1], norm=True, intermediates_only=True
    )[0]
    torch.testing.assert_close(vfm.load("dino", folder, layer=2)(images(1, 64, 64)), whole, atol=1e-5, rtol=0)
    for features in "qkv":
        loaded = vfm.load("dino", folder, features=features)
        assert torch.equal(loaded(images(1, 64, 64)), dino.DINO(model.vit, features)(images(1, 64, 64)))
