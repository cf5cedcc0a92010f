"""Attention without the matrix of all pairs, and products by way of convolutions, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from proxyclip.backbones import cpu_kernels as linear
from proxyclip.backbones.cpu_kernels import ROWS, attend, product

TOKENS = (1, 5, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 17)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["convolutions", "products"])
def faster(request, monkeypatch):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", TOKENS)
def test_attend(tokens, dtype):
    query, key, value = (drawn(2, 3, tokens, 8, seed=seed).to(dtype) for seed in range(3))
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    before = query.clone()
    mixed = attend(query, key, value)
    assert mixed.dtype == dtype and mixed.shape == (2, 3, tokens, 8)
    torch.testing.assert_close(mixed.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    assert torch.equal(query, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_with_more_keys_than_queries(dtype):
    query, key, value = drawn(2, 2, 9, 16).to(dtype), drawn(2, 2, 300, 16).to(dtype), drawn(2, 2, 300, 16, seed=2)
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    mixed = attend(query, key, value.to(dtype))
    torch.testing.assert_close(mixed.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 13, 5), (2, 130, 24, 71), (3, 33, 1, 8)])
def test_linear(faster, shape, bias, dtype):
    batch, tokens, inputs, outputs = shape
    given = drawn(batch, tokens, inputs).to(dtype)
    weight = (drawn(outputs, inputs, seed=1) / inputs**0.5).to(dtype)
    offset = drawn(outputs, seed=2).to(dtype) if bias else None
    expected = F.linear(given.double(), weight.double(), offset.double() if bias else None)
    result = linear.linear(given, weight, offset)
    assert result.dtype == dtype and result.shape == (batch, tokens, outputs)
    torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_of_views(faster, dtype):
    given = drawn(2, 24, 9).to(dtype).mT[:, 1:]  # tokens and channels exchanged, the first token left out
    weight = drawn(24, 10, seed=1).to(dtype).T[::2]  # transposed, every second row
    offset = drawn(10, seed=2).to(dtype)[::2]
    result = linear.linear(given, weight, offset)
    expected = F.linear(given.double(), weight.double(), offset.double())
    torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product(faster, dtype):
    a, b = drawn(2, 31, 12).to(dtype), drawn(2, 12, 17, seed=1).to(dtype).mT  # (2, 31, 12), (2, 17, 12)
    expected = a.double() @ b.double().mT
    result = product(a, b)
    assert result.dtype == dtype and result.shape == (2, 31, 17)
    torch.testing.assert_close(result.double(), expected, atol=3 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_each_path_is_its_own(monkeypatch):
    """So that the tests above test two things."""
    called = []
    for name in ("linear", "conv2d"):
        original = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *a, name=name, original=original: called.append(name) or original(*a))
    for faster, path in ((True, "conv2d"), (False, "linear")):
        monkeypatch.setattr(linear, "convolutions_are_faster", lambda faster=faster: faster)
        called.clear()
        linear.linear(drawn(2, 3, 4), drawn(5, 4))
        assert called == [path]


def test_product_needs_as_many_of_both(monkeypatch):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda: True)
    with pytest.raises(ValueError, match="shorter"):
        product(drawn(2, 3, 4), drawn(1, 3, 4))
