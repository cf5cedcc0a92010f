"""The VFM walks against the libraries' own forward passes, on tiny random models."""

import pytest
import torch
import torch.nn.functional as F
from statistics_of_images import normalise
from tiny_vfm import GRID, sam_encoder, timm_model

from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.vfm import _vit, dino, dinov2, dinov3, hf, load, mae, sam

torch.manual_seed(0)
IMAGES = torch.rand(2, 3, 90, 122)
NORMALISED = normalise(IMAGES, _vit.IMAGENET_MEAN, _vit.IMAGENET_STD)


def as_map(tokens, h, w):
    return tokens[:, -h * w :].transpose(1, 2).reshape(len(tokens), -1, h, w)


@pytest.mark.parametrize(
    ("family", "registers", "make"),
    [
        ("dino", False, dino.DINO),
        ("dinov2", False, dinov2.DINOv2),
        ("dinov2", True, dinov2.DINOv2),
        ("dinov3", False, dinov3.DINOv3),
        ("mae", False, lambda vit: mae.MAE(vit, window=64)),
    ],
)
def test_native_size_equals_timm(family, registers, make):
    side, patch = GRID[family]
    vit = timm_model(family, registers)
    expected = vit.forward_features(NORMALISED[..., :side, :side])
    expected = as_map(expected, side // patch, side // patch)
    torch.testing.assert_close(make(vit)(IMAGES[..., :side, :side]), expected, atol=1e-5, rtol=0)


def test_dinov3_other_sizes_equal_timm():
    vit = timm_model("dinov3")
    expected = as_map(vit.forward_features(NORMALISED[..., :80, :112]), 5, 7)
    torch.testing.assert_close(dinov3.DINOv3(vit)(IMAGES), expected, atol=1e-5, rtol=0)


def test_dino_queries_keys_values_are_those_of_the_last_attention():
    vit = timm_model("dino")
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(NORMALISED[..., :64, :64])))
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    last = vit.blocks[-1]
    expected = last.attn.qkv(last.norm1(tokens)).reshape(2, -1, 3, 3, 16).permute(2, 0, 1, 3, 4).flatten(3)
    for index, features in enumerate("qkv"):
        ours = dino.DINO(vit, features=features)(IMAGES[..., :64, :64])
        torch.testing.assert_close(ours, as_map(expected[index], 8, 8), atol=1e-5, rtol=0)


def test_sam_equals_segment_anything():
    encoder = sam_encoder()
    expected = encoder(F.interpolate(NORMALISED, (96, 96), mode="bilinear"))
    torch.testing.assert_close(sam.SAM(encoder)(IMAGES), expected, atol=2e-5, rtol=0)


def test_attention_is_fused():
    for family in ("dino", "dinov2", "dinov3", "mae"):
        assert all(block.attn.fused_attn for block in timm_model(family).blocks)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def saved(folder, kind: str, **settings):
    """A tiny random model of transformers, saved to the folder."""
    transformers = import_library("transformers")
    torch.manual_seed(2)
    model = transformers.AutoModel.from_config(getattr(transformers, kind)(**settings)).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}')
    return model


@pytest.mark.parametrize(
    "kind", ["ViTConfig", "Dinov2Config", "Dinov2WithRegistersConfig", "DINOv3ViTConfig", "SiglipVisionConfig"]
)
def test_hugging_face_tokens_equal_transformers(tmp_path, kind):
    model = saved(tmp_path, kind, **SMALL)
    inputs = normalise(IMAGES, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))[..., :88, :120]
    arguments = {} if kind.startswith(("Dinov2", "DINOv3")) else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        expected = as_map(model(inputs, **arguments).last_hidden_state, 11, 15)
    ours = load(f"hf:{tmp_path}")
    assert (ours.patch_size, ours.mean, ours.std) == (8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    torch.testing.assert_close(ours(IMAGES), expected, atol=1e-5, rtol=0)


def test_hugging_face_backbone_agrees(tmp_path):
    transformers = import_library("transformers")
    saved(tmp_path, "Dinov2WithRegistersConfig", **SMALL)
    backbone = transformers.Dinov2WithRegistersBackbone.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = backbone(normalise(IMAGES, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))[..., :88, :120]).feature_maps[-1]
    torch.testing.assert_close(load(f"hf:{tmp_path}")(IMAGES), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "settings", "stride"),
    [
        ("SwinConfig", {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, 8),
        ("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, 8),
    ],
)
def test_hugging_face_hierarchical_models_give_a_map(tmp_path, kind, settings, stride):
    saved(tmp_path, kind, **settings)
    model = load(f"hf:{tmp_path}")
    assert model.patch_size == stride
    assert model(IMAGES).shape[-2:] == (90 // stride, 122 // stride)


def test_hugging_face_model_of_images_and_text_lends_its_image_encoder(tmp_path):
    transformers = import_library("transformers")
    text = {**SMALL, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=SMALL)).eval()
    whole.save_pretrained(tmp_path)
    with torch.no_grad():
        tokens = whole.vision_model(NORMALISED[..., :88, :120], interpolate_pos_encoding=True).last_hidden_state
    with pytest.warns(UserWarning, match="no preprocessor_config.json"):
        model = load(f"hf:{tmp_path}")
    torch.testing.assert_close(model(IMAGES), as_map(tokens, 11, 15), atol=1e-5, rtol=0)


def test_hugging_face_layer_keeps_the_final_norm(tmp_path):
    model = saved(tmp_path, "Dinov2Config", **SMALL)
    with torch.no_grad():
        hidden = model(NORMALISED[..., :88, :120], output_hidden_states=True).hidden_states[1]
        expected = as_map(model.layernorm(hidden), 11, 15)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    torch.testing.assert_close(load(f"hf:{tmp_path}", layer=1)(IMAGES), expected, atol=1e-5, rtol=0)


def test_hugging_face_model_without_normalisation(tmp_path):
    saved(tmp_path, "Dinov2Config", **SMALL)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}')
    assert hf.statistics(tmp_path) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
