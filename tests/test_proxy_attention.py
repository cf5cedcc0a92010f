"""Proxy attention: the weights, entry by entry."""

import pytest
import torch
import torch.nn.functional as F

from proxyclip.backbones import cpu_kernels as linear
from proxyclip.methods.proxyclip import proxy_attention


def features(batch=2, channels=6, height=4, width=7, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 3.0), (0.0, 1.0), (0.6, 8.0)])
def test_entry_by_entry(monkeypatch, faster, beta, gamma):
    monkeypatch.setattr(linear, "convolutions_are_faster", lambda dtype: faster)
    given = features() + 0.7
    attention = proxy_attention(given, beta, gamma)
    assert attention.dtype == torch.float32 and attention.shape == (2, 28, 28)
    expected = torch.stack([plainly(window, beta, gamma) for window in given])
    assert 0.1 < (expected == 0).float().mean() < 0.95
    torch.testing.assert_close(attention.double(), expected, atol=1e-6, rtol=0)


def test_rows_sum_to_one():
    attention = proxy_attention(features(3, seed=5), 1.2, 3.0)
    torch.testing.assert_close(attention.sum(2), torch.ones(3, 28), atol=1e-6, rtol=0)
    assert (attention >= 0).all() and (attention == 0).any()


def test_the_mean_is_of_one_window():
    alike, mixed = features(1) * 0.1 + 1, features(1, seed=1)
    together = proxy_attention(torch.cat([alike, mixed]), 1.2, 3.0)
    apart = torch.cat([proxy_attention(alike, 1.2, 3.0), proxy_attention(mixed, 1.2, 3.0)])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)
    patches = F.normalize(torch.cat([alike, mixed]).flatten(2).mT, dim=2)
    means = (patches @ patches.mT).mean((1, 2))
    assert means[0] - means[1] > 0.5  # one mean for both would change what is dropped


def test_in_a_window_of_one_colour_each_patch_keeps_itself():
    attention = proxy_attention(torch.full((2, 5, 3, 4), 0.3), beta=1.2, gamma=3.0)
    assert torch.equal(attention, torch.eye(12).expand(2, 12, 12))


def test_a_patch_without_features_keeps_itself():
    given = features(1) + 1.0
    given[0, :, 1, 2] = 0
    attention = proxy_attention(given, 1.2, 3.0)[0]
    own = 1 * 7 + 2
    assert attention.isfinite().all()
    assert torch.equal(attention[own], torch.eye(28)[own])
    assert (attention[torch.arange(28) != own, own] == 0).all()


def test_an_entry_at_the_threshold_stays():
    one_colour = torch.zeros(1, 3, 2, 3)
    one_colour[:, 1] = 5  # every similarity is exactly 1, and so is their mean
    assert torch.equal(proxy_attention(one_colour, beta=1.0, gamma=3.0), torch.full((1, 6, 6), 1 / 6))
    three = torch.eye(3)[None].unflatten(2, (1, 3))  # similar to themselves alone
    expected = torch.softmax(3 * torch.eye(3), dim=1)[None]
    torch.testing.assert_close(proxy_attention(three, beta=0.0, gamma=3.0), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_threshold_is_taken_in_float32(dtype):
    given = (features(2, 16, 6, 9) + 0.5).to(dtype)
    patches = F.normalize(given.flatten(2).mT, dim=2)
    similarity = patches @ patches.mT
    coarse = similarity >= 1.2 * similarity.mean((1, 2), keepdim=True)
    exact = torch.stack([plainly(window, 1.2, 3.0) for window in given])
    assert (coarse != (exact > 0)).any()  # in half precision other entries would be dropped
    attention = proxy_attention(given, 1.2, 3.0)
    assert attention.dtype == torch.float32
    assert torch.equal(attention > 0, exact > 0)
    torch.testing.assert_close(attention.double(), exact, atol=1e-6, rtol=0)


def test_the_length_of_features_does_not_matter():
    given = features()
    scale = torch.rand(2, 1, 4, 7, generator=torch.Generator().manual_seed(2)) * 9 + 0.1
    torch.testing.assert_close(
        proxy_attention(given * scale, 1.2, 3.0), proxy_attention(given, 1.2, 3.0), atol=1e-5, rtol=0
    )


def test_features_are_left_as_they_are():
    given = features()
    proxy_attention(given, 1.2, 3.0)
    assert torch.equal(given, features())
