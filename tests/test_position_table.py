"""Position tables for other grids: the published values, and nothing that a training step could make stale."""

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from tiny_vfm import images, tiny

from proxyclip.backbones.layers import cached_sampling_matrix, resample

GRIDS = [((4, 4), (3, 7)), ((5, 3), (5, 8)), ((7, 7), (2, 2)), ((1, 1), (3, 2)), ((14, 14), (42, 30))]


@pytest.fixture(autouse=True)
def empty_cache():
    cached_sampling_matrix.cache_clear()


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("grid", "size"), GRIDS)
@pytest.mark.parametrize("antialias", [False, True])
def test_by_size(grid, size, antialias):
    table = random(*grid, 6)
    expected = F.interpolate(table.permute(2, 0, 1)[None], size, mode="bicubic", antialias=antialias)[0]
    result = resample(table, size, antialias=antialias).permute(2, 0, 1)
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_by_scale_factor(grid, size):
    table = random(*grid, 6)
    scale = tuple((out + 0.1) / length for out, length in zip(size, grid, strict=True))
    expected = F.interpolate(table.permute(2, 0, 1)[None], scale_factor=scale, mode="bicubic")[0].permute(1, 2, 0)
    torch.testing.assert_close(resample(table, size, offset=0.1), expected, atol=2e-6, rtol=0)


def test_half_precision_and_autocast_are_resampled_in_float32():
    table = random(4, 5, 6).bfloat16()
    expected = resample(table.float(), (7, 3), offset=0.1)
    assert torch.equal(resample(table, (7, 3), offset=0.1), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample(table.float(), (7, 3), offset=0.1), expected)


def test_matrices_are_made_once_a_length_on_the_cpu(monkeypatch):
    """For every device: not every accelerator has antialiased bicubic resampling."""
    places, original = [], F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda x, *a, **k: places.append(x.device.type) or original(x, *a, **k))
    table = random(4, 5, 6).to("meta")
    for _ in range(3):
        assert resample(table, (7, 3), antialias=True).device.type == "meta"
    resample(table, (7, 9), antialias=True)
    assert places == ["cpu"] * 3


def test_matrices_are_bounded_by_bytes():
    for out in range(1, 60):
        cached_sampling_matrix(1000, 100 * out, None, False, torch.device("cpu"))
    cache = cached_sampling_matrix.cache
    assert 0 < cache.currsize <= cache.maxsize == 32 * 2**20
    assert cache.currsize == sum(matrix.nbytes for matrix in cache.values())


def towers():
    clip = tiny_clip.clip()
    yield "clip", lambda: clip.position_table(3, 7), clip, clip.visual.positional_embedding
    for name in ("dino", "dinov2", "dinov2-reg", "mae"):
        vfm = tiny(name)
        yield name, lambda vfm=vfm: vfm.position_table(3, 7), vfm, vfm.vit.pos_embed


TOWERS = [pytest.param(*rest, id=name) for name, *rest in towers()]


@pytest.mark.parametrize(("table", "model", "weight"), TOWERS)
@pytest.mark.parametrize("way", ["in place", "inference mode", "data", "another data", "load_state_dict"])
def test_a_changed_weight_gives_a_changed_table(table, model, weight, way):
    before = table()
    assert torch.equal(table(), before)
    if way == "in place":
        with torch.no_grad():
            weight.add_(1)
    elif way == "inference mode":
        with torch.inference_mode():
            weight.add_(1)
    elif way == "data":  # PyTorch does not count this as a new version of the weight
        weight.data.add_(1)
    elif way == "another data":
        weight.data = weight.data + 1
    else:
        state = model.state_dict()
        name = next(key for key, value in state.items() if value.data_ptr() == weight.data_ptr())
        model.load_state_dict(state | {name: weight + 1})
    torch.testing.assert_close(table(), before + 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("table", "model", "weight"), TOWERS)
def test_gradients_reach_the_table_after_use_in_inference_mode(table, model, weight):
    with torch.inference_mode():
        expected = table()
    weight.requires_grad_(True)
    try:
        result = table()
        result.square().sum().backward()
        assert torch.equal(result, expected)
        assert weight.grad.abs().sum() > 0
    finally:
        weight.requires_grad_(False).grad = None


@pytest.mark.parametrize("name", ["clip", "dino", "dinov2-reg", "mae"])
def test_a_training_step_after_inference(name):
    """Of all weights that the forward pass uses, as a head with a trained backbone does it."""
    model = tiny_clip.clip() if name == "clip" else tiny(name)
    run = model.values if name == "clip" else model
    given = images(2, 56, 72)
    with torch.inference_mode():
        before = run(given)
    trained = (model.visual if name == "clip" else model.vit).requires_grad_(True)
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    run(given).square().mean().backward()
    optimiser.step()
    with torch.inference_mode():
        after = run(given)
        assert not torch.equal(after, before)
        cached_sampling_matrix.cache_clear()
        assert torch.equal(run(given), after)
