"""Training through frozen blocks of CLIP: gradients of their input, and what is kept for the backward pass."""

import pytest
import torch
import torch.nn.functional as F
from step_by_step_heads import clip_block

from proxyclip.backbones.checkpoints import fixed_seed, import_library
from proxyclip.backbones.layers import activate, linear, run_block

B, T, P, WIDTH, HEADS = 2, 150, 7, 32, 2


@pytest.fixture(params=["onednn", "mkl"])
def faster(request, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_CPU_LINEAR", request.param)


def block():
    """One of open_clip's, with QuickGELU."""
    open_clip = import_library("open_clip")
    with fixed_seed():
        made = open_clip.transformer.ResidualAttentionBlock(WIDTH, HEADS, act_layer=open_clip.model.QuickGELU)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept_bytes(function, frozen=()) -> int:
    """Bytes of all tensors that autograd keeps for the backward pass, without the weights of a frozen module."""
    weights, kept = {parameter.data_ptr() for parameter in frozen}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(kept.values())


def test_gradients(faster):
    made, tokens, context = block(), random(B, T, WIDTH).requires_grad_(), random(B, P, WIDTH, seed=1).requires_grad_()
    wanted = random(B, T, WIDTH, seed=2)
    found = run_block(made, tokens, context)
    expected = clip_block(made, torch.cat([tokens, context], dim=1))[:, :T]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for own, plain in zip(*(torch.autograd.grad((out * wanted).sum(), (tokens, context)) for out in (found, expected)),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(own, plain, atol=1e-4 * plain.abs().max().item(), rtol=1e-3)


def test_no_gradient_for_what_is_frozen(faster):
    made, context = block(), random(B, P, WIDTH).requires_grad_()
    run_block(made, random(B, T, WIDTH, seed=1), context).sum().backward()
    assert context.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept(faster, dtype):
    """Per token: the inputs of both norms, queries, keys, values, their mixture, and the hidden layer's input.

    No matrix of all pairs of tokens, no input of a frozen layer, nothing of the inside of the activation.
    """
    made, tokens = block(), random(B, T, WIDTH).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        kept = kept_bytes(lambda: run_block(made, tokens), made.parameters())
    wide = B * T * WIDTH
    expected = 2 * 4 * wide + (3 + 1 + 4) * dtype.itemsize * wide
    weights = 12 * WIDTH**2 * 2 if dtype == torch.bfloat16 else 0  # in this precision for products
    norms = 8 * B * T * 4 + HEADS * B * T * 8  # means, deviations, and the sums of the softmax
    assert expected <= kept <= expected + weights + norms
    assert B * HEADS * T**2 * dtype.itemsize > weights + norms  # else a matrix of all pairs would not be noticed


def test_linear_layers_that_are_trained(faster):
    given, grad = random(B, T, WIDTH).requires_grad_(), random(B, T, 5, seed=3)
    for trained in ("weight", "bias"):
        weight, bias = random(5, WIDTH, seed=1), random(5, seed=2)
        {"weight": weight, "bias": bias}[trained].requires_grad_()
        parts = [part for part in (given, weight, bias) if part.requires_grad]
        found, expected = (torch.autograd.grad(layer(given, weight, bias), parts, grad) for layer in (linear, F.linear))
        for own, plain in zip(found, expected, strict=True):
            torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)


def test_quick_gelu():
    module = import_library("open_clip").model.QuickGELU()
    x = (4 * random(3, 50).double()).requires_grad_()
    torch.testing.assert_close(activate(module, x), x * torch.sigmoid(1.702 * x))
    assert torch.autograd.gradcheck(lambda x: activate(module, x), x)
    assert kept_bytes(lambda: activate(module, x * 2)) == x.nbytes
    assert torch.equal(activate(torch.nn.GELU(), x), F.gelu(x))
