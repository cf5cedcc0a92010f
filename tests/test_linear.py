"""Linear layers by oneDNN and by MKL, against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

import proxyclip
from proxyclip.backbones.layers import convolution, linear
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
