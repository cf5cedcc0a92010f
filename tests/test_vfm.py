"""VFMs by name, from files, folders or at random; the contract of `forward`; and one sentence for what cannot be."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_vfm import FAMILIES, GRID, images, official_state, sam_encoder, save_folder, tiny

from proxyclip.backbones import vfm
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.layers import Normalise
from proxyclip.backbones.vfm import dino, dinov2, sam
from proxyclip.backbones.vfm._vit import Variant
from proxyclip.errors import InputError, NotFound


@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_and_batch(name):
    model = tiny(name)
    p = model.patch_size
    for height, width in ((p, p), (3 * p, 7 * p), (5 * p + p - 1, 2 * p + 1)):
        pair = images(2, height, width)
        both = model(pair)
        assert both.shape[-2:] == ((6, 6) if name in ("mae", "sam") else (height // p, width // p))
        singles = torch.cat([model(pair[:1]), model(pair[1:])])
        torch.testing.assert_close(both, singles, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("mae", "sam")])
def test_rows_and_columns_beyond_the_last_patch_do_not_matter(name):
    model = tiny(name)
    p = model.patch_size
    picture = images(1, 4 * p + 3, 6 * p + 5)
    torch.testing.assert_close(model(picture), model(picture[..., : 4 * p, : 6 * p]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_close_and_keeps_the_type(name):
    model = tiny(name)
    exact = model(images(2, 90, 122))
    rough = model.to(torch.bfloat16)(images(2, 90, 122))
    assert (exact.dtype, rough.dtype) == (torch.float32, torch.bfloat16)
    assert F.cosine_similarity(exact, rough.float(), dim=1).min() > 0.99


@pytest.mark.parametrize("name", ["dino", "dinov2", "dinov2-reg", "mae"])
def test_tables_by_size_and_type(name):
    model = tiny(name)
    first, second = model.position_table(5, 9), model.position_table(9, 5)
    assert first.shape == (1, 45, 48) and not torch.equal(first, second)
    assert torch.equal(model.position_table(5, 9), first)
    model.to(torch.bfloat16)
    assert model.position_table(5, 9).dtype == torch.bfloat16
    torch.testing.assert_close(model.position_table(5, 9).float(), first, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["dino", "dinov2", "dinov2-reg", "mae"])
def test_table_of_the_native_grid_is_the_stored_one(name):
    model = tiny(name)
    side = model.vit.patch_embed.grid_size[0]
    assert torch.equal(model.position_table(side, side), model.vit.pos_embed[:, -side * side :])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dino", {"scale_factor": (4.1 / 8, 16.1 / 8)}),
        ("dinov2", {"scale_factor": (4.1 / 5, 16.1 / 5)}),
        ("dinov2-reg", {"size": (4, 16), "antialias": True}),
        ("mae", {"size": (4, 16)}),
    ],
)
def test_tables_are_resized_as_published(name, options):
    model = tiny(name)
    side = model.vit.patch_embed.grid_size[0]
    grid = model.vit.pos_embed[:, -side * side :].reshape(1, side, side, 48).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, mode="bicubic", **options).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.position_table(4, 16), expected, atol=1e-6, rtol=0)


def test_mean_and_deviation_of_imagenet_are_taken_off():
    model = tiny("dino")
    raw = images(1, 64, 64)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]  # (3, 1, 1) each
    normal = model(raw)
    model.normalise = Normalise((0, 0, 0), (1, 1, 1))
    torch.testing.assert_close(normal, model((raw - mean) / std), atol=1e-5, rtol=0)


def test_nothing_is_hooked():
    for name in FAMILIES:
        model = tiny(name)
        model(images(1, 64, 64))
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


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
