"""Proxy attention: the weights, entry by entry, and the values that they mix."""

import pytest
import torch
import torch.nn.functional as F
from largest_tensors import Shapes

from proxyclip.methods import proxyclip as method
from proxyclip.methods.proxyclip import CPU_BLOCK, blocks, proxy_attend, sums_in_float32


def features(batch=2, channels=6, height=4, width=7, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def attention(features, beta, gamma):
    """(B, C, h, w) -> (B, N, N), shown by values that are unit vectors."""
    patches = features.shape[-2] * features.shape[-1]
    return proxy_attend(features, torch.eye(patches).expand(len(features), patches, patches), beta, gamma)


def plainly(features, beta, gamma):
    """(C, h, w) -> (N, N) in float64, one entry after another."""
    patches = [patch / patch.norm() for patch in features.double().flatten(1).T]
    similarity = torch.stack([torch.stack([a @ b for b in patches]) for a in patches])
    mean = similarity.mean()
    rows = torch.zeros_like(similarity)
    for i, row in enumerate(similarity):
        for j, value in enumerate(row):
            if value - beta * mean >= 0 or i == j:
                rows[i, j] = torch.exp(gamma * (value - beta * mean))
    return rows / rows.sum(1, keepdim=True)


@pytest.fixture
def as_with_cuda(monkeypatch):
    """The way of accelerators that add up half-precision products in float32, on the CPU: lists their types."""
    types, plain = [], torch.bmm

    def bmm(a, b, out_dtype=None):
        types.append((a.dtype, b.dtype, out_dtype))
        return plain(a.float(), b.float())

    monkeypatch.setattr(torch, "bmm", bmm)
    monkeypatch.setattr(method, "sums_in_float32", lambda device: True)
    return types


@pytest.mark.parametrize("block", [1, 3 * 28, 28 * 28, CPU_BLOCK])
@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 3.0), (0.0, 1.0), (0.6, 8.0)])
def test_entry_by_entry(monkeypatch, block, beta, gamma):
    monkeypatch.setattr(method, "CPU_BLOCK", block)
    given = features(3) + 0.7
    found = attention(given, beta, gamma)
    expected = torch.stack([plainly(window, beta, gamma) for window in given])
    assert 0.1 < (expected == 0).float().mean() < 0.95
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_blocks_are_some_windows_or_some_rows():
    assert blocks(10, 400, torch.device("cpu")) == [(slice(first, first + 6), slice(0, 400)) for first in (0, 6)]
    rows = [slice(0, 524), slice(524, 1048), slice(1048, 1572), slice(1572, 2000)]
    assert blocks(2, 2000, torch.device("cpu")) == [(slice(w, w + 1), part) for w in (0, 1) for part in rows]
    assert blocks(64, 1764, torch.device("meta")) == [(slice(0, 86), slice(0, 1764))]


def test_no_matrix_of_all_pairs_is_held():
    with Shapes() as shapes:
        proxy_attend(torch.ones(1, 3, 35, 35), torch.ones(1, 1225, 2), 1.2, 3.0)
    assert max(torch.Size(shape).numel() for shape in shapes.found) <= CPU_BLOCK < 1225**2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_mixed_in_their_own_type(dtype):
    given, values = features() + 0.7, torch.randn(2, 28, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, expected = proxy_attend(given, values, 1.2, 3.0), attention(given, 1.2, 3.0) @ values.float()
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=4 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("block", [100, CPU_BLOCK])
def test_a_window_does_not_depend_on_the_others(monkeypatch, block):
    monkeypatch.setattr(method, "CPU_BLOCK", block)
    given, values = features(5, channels=40) + 0.7, torch.randn(5, 28, 33)
    alone = [proxy_attend(given[k : k + 1], values[k : k + 1], 1.2, 3.0) for k in range(5)]
    assert torch.equal(proxy_attend(given, values, 1.2, 3.0), torch.cat(alone))


def test_rows_sum_to_one():
    found = attention(features(3, seed=5), 1.2, 3.0)
    torch.testing.assert_close(found.sum(2), torch.ones(3, 28), atol=1e-6, rtol=0)
    assert (found >= 0).all() and (found == 0).any()


def test_the_mean_is_of_one_window():
    alike, mixed = features(1) * 0.1 + 1, features(1, seed=1)
    together = attention(torch.cat([alike, mixed]), 1.2, 3.0)
    apart = torch.cat([attention(alike, 1.2, 3.0), attention(mixed, 1.2, 3.0)])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)
    patches = F.normalize(torch.cat([alike, mixed]).flatten(2).mT, dim=2)
    means = (patches @ patches.mT).mean((1, 2))
    assert means[0] - means[1] > 0.5  # one mean for both would change what is dropped


@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 3.0), (1.2, 3000.0), (1e30, 3000.0), (1e30, 3.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_a_window_of_one_colour_each_patch_keeps_itself(beta, gamma, dtype):
    values = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(proxy_attend(torch.full((2, 5, 3, 4), 0.3, dtype=dtype), values, beta, gamma), values)


@pytest.mark.parametrize("gamma", [3.0, 3000.0, 1e12])
@pytest.mark.parametrize("seed", range(3))
def test_a_sharp_attention_does_not_overflow(gamma, seed):
    given = features(2, channels=3, seed=seed)
    given[:, :, 1] = given[:, :, 0] * 3  # each patch of the first rows has a twin
    found = attention(given, 0.0, gamma)
    torch.testing.assert_close(found.sum(2), torch.ones(2, 28), atol=1e-6, rtol=0)
    assert gamma == 3 or found.diagonal(dim1=1, dim2=2).min() > 0.4  # shared with a twin at most


def test_many_float16_values_of_one_sign_do_not_overflow():
    given, values = torch.full((1, 2, 50, 50), 0.5), torch.full((1, 2500, 3), 40.0, dtype=torch.float16)
    assert torch.equal(proxy_attend(given, values, 0.5, 3.0), values)  # 2500 · 40 is more than float16 holds


@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 3.0), (1.2, 3000.0)])
def test_a_patch_without_features_keeps_itself(beta, gamma):
    given = features(1) + 1.0
    given[0, :, 1, 2] = 0
    found = attention(given, beta, gamma)[0]
    own = 1 * 7 + 2
    assert found.isfinite().all()
    assert torch.equal(found[own], torch.eye(28)[own])
    assert (found[torch.arange(28) != own, own] == 0).all()


@pytest.mark.parametrize("gamma", [3.0, 3000.0])
def test_without_a_threshold_a_patch_without_features_attends_to_all_alike(gamma):
    given = features(1) + 1.0
    given[0, :, 1, 2] = 0
    assert torch.equal(attention(given, 0.0, gamma)[0, 1 * 7 + 2], torch.full((28,), 1 / 28))


def test_an_entry_at_the_threshold_stays():
    one_colour = torch.zeros(1, 3, 2, 3)
    one_colour[:, 1] = 4  # every similarity is exactly 1, and so is their mean
    torch.testing.assert_close(attention(one_colour, beta=1.0, gamma=3.0), torch.full((1, 6, 6), 1 / 6))
    three = torch.eye(3)[None].unflatten(2, (1, 3))  # similar to themselves alone
    expected = torch.softmax(3 * torch.eye(3), dim=1)[None]
    torch.testing.assert_close(attention(three, beta=0.0, gamma=3.0), expected)


def check_the_threshold(dtype):
    given = (features(2, 16, 6, 9) + 0.5).to(dtype)
    patches = F.normalize(given.flatten(2).mT, dim=2)
    similarity = patches @ patches.mT
    coarse = similarity >= 1.2 * similarity.mean((1, 2), keepdim=True)
    exact = torch.stack([plainly(window, 1.2, 3.0) for window in given])
    assert (coarse != (exact > 0)).any()  # in half precision other entries would be dropped
    found = attention(given, 1.2, 3.0)
    assert torch.equal(found > 0, exact > 0)
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_threshold_is_taken_in_float32(dtype):
    check_the_threshold(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_threshold_is_the_same_with_products_of_half_precision(dtype, as_with_cuda):
    check_the_threshold(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_products_give_the_same_values(dtype, as_with_cuda, monkeypatch):
    given, values = (features() + 0.7).to(dtype), torch.randn(2, 28, 5).to(dtype)
    found = proxy_attend(given, values, 1.2, 3.0)
    assert found.dtype == dtype and as_with_cuda == [(dtype, dtype, torch.float32)] * 2
    monkeypatch.undo()
    error = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, proxy_attend(given, values, 1.2, 3.0), atol=error, rtol=0)


def test_float32_is_multiplied_as_it_is(as_with_cuda):
    attention(features(), 1.2, 3.0)
    assert as_with_cuda == [(torch.float32, torch.float32, None)] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weights_of_a_row_are_added_up_in_float32(dtype, as_with_cuda):
    values = torch.ones(1, 900, 1, dtype=dtype)
    assert torch.equal(proxy_attend(features(1, 6, 30, 30), values, 0.0, 3.0), values)


def test_where_half_precision_products_are_summed_in_float32():
    assert all(sums_in_float32(torch.device(name)) for name in ("cuda", "meta"))
    assert not any(sums_in_float32(torch.device(name)) for name in ("cpu", "mps"))


def test_the_length_of_features_does_not_matter():
    given = features()
    scale = torch.rand(2, 1, 4, 7, generator=torch.Generator().manual_seed(2)) * 9 + 0.1
    torch.testing.assert_close(attention(given * scale, 1.2, 3.0), attention(given, 1.2, 3.0), atol=1e-5, rtol=0)


def test_what_is_given_is_left_as_it_is():
    given, values = features(), torch.randn(2, 28, 3)
    kept = values.clone()
    proxy_attend(given, values, 1.2, 3.0)
    assert torch.equal(given, features()) and torch.equal(values, kept)
