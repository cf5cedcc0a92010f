"""PEARL's attention, head by head and pair by pair of tokens."""

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from largest_tensors import Shapes

from proxyclip.errors import InputError
from proxyclip.methods.pearl import Options, rotation


def images(batch, height, width):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def slow_head(query, key, value, alpha, steps, class_token):
    """The mixed values of one head, (T, d) each in float64, token by token."""
    tokens, width = query.shape
    weights = [float(row.norm()) if index or class_token else 0.0 for index, row in enumerate(query)]
    weights = [weight / (sum(weights) + 1e-6) for weight in weights]
    mean_query = sum(weight * row for weight, row in zip(weights, query, strict=True))
    mean_key = sum(weight * row for weight, row in zip(weights, key, strict=True))
    covariance = torch.zeros(width, width, dtype=torch.float64)  # M
    for index in range(tokens):
        covariance += torch.outer(key[index] - mean_key, query[index] - mean_query)
    gram = covariance.T @ covariance
    frobenius = gram.square().sum().sqrt()
    identity = torch.eye(width, dtype=torch.float64)
    y, z = gram / frobenius + 1e-6 * identity, identity
    for _ in range(steps):
        change = (3 * identity - z @ y) / 2
        y, z = y @ change, change @ z
    turn = covariance @ z / frobenius.sqrt()  # R
    mixed = torch.zeros_like(value)
    for i in range(tokens):
        logits = [
            (query[i] @ (key[j] @ turn) + alpha * (key[i] - mean_key) @ (key[j] - mean_key)) / width**0.5
            for j in range(tokens)
        ]
        mixed[i] = torch.stack(logits).softmax(0) @ value
    return mixed


def slowly(clip, image, **options):
    """(3, H, W) -> (E, h, w) in float64."""
    block, visual = clip.blocks[-1], clip.visual
    tokens = block.ln_1(clip.before_last_block(image[None]))[0].double()  # (T, D)
    projected = tokens @ block.attn.in_proj_weight.double().T + block.attn.in_proj_bias.double()
    count = block.attn.num_heads
    parts = [part.chunk(count, dim=1) for part in projected.chunk(3, dim=1)]
    mixed = torch.cat([slow_head(*head, **options) for head in zip(*parts, strict=True)], dim=1)
    out = block.attn.out_proj
    joined = mixed @ out.weight.double().T + out.bias.double()
    normed = torch.nn.functional.layer_norm(
        joined, joined.shape[1:], visual.ln_post.weight.double(), visual.ln_post.bias.double(), visual.ln_post.eps
    )
    return (normed @ visual.proj.double())[1:].T.unflatten(1, clip.grid(image))


PUBLISHED = {"alpha": 0.08, "steps": 5, "class_token": False}


@pytest.mark.parametrize("changes", [{}, {"alpha": 0.3}, {"alpha": 0.0}, {"steps": 2}, {"class_token": True}], ids=str)
@torch.no_grad()
def test_pair_by_pair(changes):
    model = tiny_clip.model("pearl", **changes)
    found = model.embed(images(2, 24, 45))  # 3 × 5 patches; the last columns belong to none
    assert found.shape == (2, 16, 3, 5)
    expected = torch.stack([slowly(model.clip, image, **PUBLISHED | changes) for image in images(2, 24, 45)])
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)
    if changes:
        assert (found - tiny_clip.model("pearl").embed(images(2, 24, 45))).abs().max() > 1e-3


@torch.no_grad()
def test_attention_is_never_held_for_all_pairs_of_tokens():
    model, tokens = tiny_clip.model("pearl"), 1 + 16 * 20
    model.embed(images(1, 16, 16))  # what is measured once per process
    with Shapes() as shapes:
        model.embed(images(1, 128, 160))
    assert (1, 2, tokens, 32) in shapes.found  # queries and keys, of twice the width
    assert not [shape for shape in shapes.found if shape[-2:] == (tokens, tokens)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_attention_is_in_float32_whatever_the_precision_of_the_tower(monkeypatch, dtype):
    given, attend, functional = [], F.scaled_dot_product_attention, "torch.nn.functional.scaled_dot_product_attention"
    monkeypatch.setattr(functional, lambda *args, **options: given.append(args) or attend(*args, **options))
    model = tiny_clip.model("pearl").set_precision(dtype)
    found = model.embed(images(2, 24, 40))
    assert found.dtype == dtype and found.isfinite().all()
    assert [part.dtype for part in given[-1]] == [torch.float32] * 3  # of the last block
    exact = tiny_clip.model("pearl").embed(images(2, 24, 40))
    torch.testing.assert_close(found.float(), exact, atol=0.15, rtol=0)


def test_queries_without_any_difference_turn_nothing():
    assert torch.equal(rotation(torch.zeros(2, 4, 4), 5), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("given", [{"alpha": -0.1}, {"steps": 0}, {"steps": 101}], ids=str)
def test_invalid_options(given):
    with pytest.raises(InputError, match="alpha is .* and steps .*; alpha must not be negative"):
        Options(**given)
