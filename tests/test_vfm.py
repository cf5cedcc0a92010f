"""VFMs: the contract of `forward`: sizes, batches, types, position tables."""

import pytest
import torch
import torch.nn.functional as F
from tiny_vfm import FAMILIES, images, tiny

from proxyclip.backbones.layers import Normalise


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
