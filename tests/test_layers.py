"""Linear layers by oneDNN and by MKL, normalisation, and position tables for other grids."""

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from statistics_of_images import normalise
from tiny_vfm import images, tiny

import proxyclip
from proxyclip.backbones.layers import Normalise, cached_sampling_matrix, convolution, linear, resample
from proxyclip.errors import InputError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["onednn", "mkl"])
def library(request, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", request.param)
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_linear(library, dtype):
    views = random(2, 24, 9).mT[:, 1:], random(24, 10, seed=1).T[::2], random(10, seed=2)[::2]  # neither is contiguous
    cases = [views] + [
        (random(batch, tokens, inputs), random(outputs, inputs, seed=1) / inputs**0.5, bias)
        for batch, tokens, inputs, outputs in [(1, 1, 1, 1), (2, 7, 13, 5), (2, 130, 24, 71), (3, 33, 1, 8)]
        for bias in (None, random(outputs, seed=2))
    ]
    for case in cases:
        tokens, weight, bias = (part if part is None else part.to(dtype) for part in case)
        expected = F.linear(tokens.double(), weight.double(), None if bias is None else bias.double())
        result = linear(tokens, weight, bias)
        assert result.dtype == dtype and result.shape == expected.shape
        torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_gradients(library, trained):
    tokens, weight, bias = random(2, 7, 9).requires_grad_(), random(5, 9, seed=1), random(5, seed=2)
    parts = [tokens, weight.requires_grad_(trained), bias.requires_grad_(trained)]
    parts = [part for part in parts if part.requires_grad]
    gradients = torch.autograd.grad(linear(tokens, weight, bias).square().sum(), parts)
    expected = torch.autograd.grad(F.linear(tokens, weight, bias).square().sum(), parts)
    torch.testing.assert_close(gradients, expected, atol=1e-4, rtol=1e-4)


@needs_onednn
def test_which_library_computes(monkeypatch):
    """oneDNN by default; PyTorch's own function on request and on accelerators."""
    calls = []
    for name in ("linear", "conv2d"):
        original = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *a, n=name, f=original, **k: calls.append(n) or f(*a, **k))
    tokens, weight = random(1, 3, 4), random(5, 4)
    linear(tokens, weight)
    linear(tokens.to("meta"), weight.to("meta"))
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", "mkl")
    linear(tokens, weight)
    assert calls == ["conv2d", "linear", "linear"]
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", "fast")
    with pytest.raises(InputError, match="PROXYCLIP_CPU_LINEAR is 'fast'; choose onednn"):
        linear(tokens, weight)


@needs_onednn
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 10, 16])
def test_convolutions_are_computed_by_onednn(batch, threads):
    """Without the dilation, those of small batches on one thread are not."""
    torch.set_num_threads(threads)
    tokens, weight = random(batch, 257, 128), random(384, 128, seed=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        convolution(tokens, weight)
    assert "aten::mkldnn_convolution" in {event.key for event in profiled.key_averages()}


@needs_onednn
def test_the_library_is_recorded(monkeypatch):
    model = proxyclip.load("mini", method="maskclip", device="cpu")
    assert model.settings()["linear"] == "onednn"
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", "mkl")
    assert model.settings()["linear"] == "mkl"
    assert "linear" not in model.to("meta").settings()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_is_exact_in_every_precision(dtype):
    result = Normalise(MEAN, STD).to(dtype)(images(2, 5, 7))
    assert torch.equal(result, normalise(images(2, 5, 7), MEAN, STD))


def test_it_moves_and_comes_back_from_nowhere():
    moved = Normalise(MEAN, STD).to("meta")
    assert moved.constants.device.type == "meta"
    assert torch.equal(moved.to_empty(device="cpu")(images(2, 5, 7)), normalise(images(2, 5, 7), MEAN, STD))


def test_checkpoints_do_not_hold_it():
    assert not [name for name in tiny("dino").state_dict() if not name.startswith("vit.")]


@pytest.mark.parametrize("mean", [(0.5, 0.5), (0.5, 0.5, float("nan")), 0.5, None, ("a", "b", "c"), (1, 2, 3, 4)])
def test_means_that_cannot_be(mean):
    with pytest.raises(InputError, match="three (finite )?numbers each"):
        Normalise(mean, STD)


def test_deviations_that_cannot_be():
    with pytest.raises(InputError, match="those of std positive"):
        Normalise(MEAN, (0.2, 0, 0.2))


GRIDS = [((4, 4), (3, 7)), ((5, 3), (5, 8)), ((7, 7), (2, 2)), ((1, 1), (3, 2)), ((14, 14), (42, 30))]


@pytest.fixture(autouse=True)
def empty_cache():
    cached_sampling_matrix.cache_clear()


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
    for out in range(3000, 3006):  # of 12 MB each
        cached_sampling_matrix(1000, out, None, False, torch.device("cpu"))
    cache = cached_sampling_matrix.cache
    assert 0 < cache.currsize <= cache.maxsize == 32 * 2**20
    assert cache.currsize == sum(matrix.nbytes for matrix in cache.values())


MATRIX = {"length": 7, "out": 5, "offset": None, "antialias": False, "device": torch.device("cpu")}


@pytest.mark.parametrize("change", [
    {"length": 9}, {"out": 6}, {"offset": 0.1}, {"antialias": True}, {"device": torch.device("meta")},
])  # fmt: skip
def test_matrices_of_other_fields_are_others(change):
    """A cache that has the neighbour returns what an empty one does, and that differs from the neighbour."""
    expected = cached_sampling_matrix(**MATRIX | change)
    cached_sampling_matrix.cache_clear()
    neighbour, result = cached_sampling_matrix(**MATRIX), cached_sampling_matrix(**MATRIX | change)
    assert result.device == expected.device and result.shape == expected.shape
    if not result.is_meta:
        assert torch.equal(result, expected) and not torch.equal(result, neighbour)


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
