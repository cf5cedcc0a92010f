"""Random weights: the same ones every time, whatever the caller set, and no trace in the caller's random numbers."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from proxyclip.backbones.checkpoints import fixed_seed

PACKAGE = Path(__file__).parents[1] / "proxyclip"


def weights():
    with fixed_seed():
        return nn.Linear(3, 4).weight


def test_always_the_same():
    first = weights()
    torch.manual_seed(7)
    torch.rand(3)
    assert torch.equal(weights(), first)


def test_the_callers_generators_are_left_alone(monkeypatch):
    """Also those of accelerators, which torch.manual_seed would reseed."""
    reseeded = []
    for module, name in ((torch.cuda, "manual_seed_all"), (torch.mps, "manual_seed"), (torch.xpu, "manual_seed_all")):
        monkeypatch.setattr(module, name, lambda seed, name=name: reseeded.append(name))
    torch.default_generator.manual_seed(3)
    before = torch.get_rng_state()
    weights()
    assert reseeded == []
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), fixed_seed():
        torch.rand(3) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_defaults_do_not_matter():
    expected = weights()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(weights(), expected)
            assert torch.zeros(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_other_place_seeds():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.manual_seed", "torch.random.manual_seed"), file
