"""Learning rates: the published formula, written out, and what every parameter gets."""

import math

import pytest
import tiny_training
import torch
from tiny_training import recipe

from heads.training.objective import make_optimiser, trained_parameters
from heads.training.recipe import Schedule
from proxyclip.errors import InputError


@pytest.mark.parametrize("iteration", [0, 1, 749, 1499, 1500, 1501, 10_000, 19_999])
def test_the_published_schedule(iteration):
    """lr(t) = (base - min) (1 - t / T)^0.9 + min, times 1 - (1 - t / 1500) (1 - 1e-6) while t < 1500."""
    schedule = Schedule(20_000, power=0.9, min_rate=1e-6, warmup=1500, warmup_ratio=1e-6)
    expected = (2e-4 - 1e-6) * (1 - iteration / 20_000) ** 0.9 + 1e-6
    if iteration < 1500:
        expected *= 1 - (1 - iteration / 1500) * (1 - 1e-6)
    assert schedule.rate(2e-4, iteration, schedule.done(iteration, 1e9)) == pytest.approx(expected, rel=1e-12)


def test_cosine_falls_from_the_base_to_the_minimum():
    schedule = Schedule(100, kind="cosine", min_rate=1e-5, warmup=0)
    rates = [schedule.rate(1e-3, iteration, iteration / 100) for iteration in (0, 25, 50, 100)]
    half = (1e-3 - 1e-5) / 2
    assert rates == pytest.approx([1e-3, 1e-5 + half * (1 + math.sqrt(0.5)), 1e-5 + half, 1e-5])


def test_a_limit_of_time_ends_the_schedule():
    schedule = Schedule(100, minutes=2)
    assert schedule.done(10, seconds=6) == 0.1  # the iterations are ahead
    assert schedule.done(10, seconds=60) == 0.5  # the clock is
    assert schedule.done(10, seconds=120) == 1 and schedule.done(100, seconds=6) == 1
    assert Schedule(100).done(10, seconds=1e9) == 0.1


@pytest.mark.parametrize("head", [name for name in tiny_training.OPTIONS if name != "cat_seg"])
def test_everything_that_is_trained_gets_one_rate_and_decays(head, monkeypatch):
    """Also norms and biases: the published settings without decay for these never match."""
    model = tiny_training.planned(monkeypatch, head).build(seed=0)
    optimiser = make_optimiser(model, recipe(rate=2e-4, weight_decay=0.01))
    (group,) = optimiser.param_groups
    own = trained_parameters(model)
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in own.values()}
    assert (group["lr"], group["base"], group["weight_decay"]) == (2e-4, 2e-4, 0.01)
    assert any("norm" in name for name in own) and any(name.endswith("bias") for name in own)
    assert not any(name.startswith("clip.") for name in own)


def test_norms_and_partly_trained_weights_need_not_decay(monkeypatch):
    """CAT-Seg: no decay of weights of CLIP, whose keys stay as they are, and none of norms if so chosen."""
    model = tiny_training.planned(monkeypatch, "cat_seg").build(seed=0)
    norms = {f"{place}.{kind}" for place, module in model.named_modules() if "Norm" in type(module).__name__
             for kind in ("weight", "bias")}  # fmt: skip
    own = trained_parameters(model)
    for decay_norms, exempt in ((True, set(model.tuned)), (False, set(model.tuned) | norms)):
        groups = make_optimiser(model, recipe(decay_norms=decay_norms)).param_groups
        decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        assert {name for name, parameter in own.items() if decay[id(parameter)] == 0} == exempt & own.keys()
        assert set(decay.values()) == {0.0, 0.01} and exempt & own.keys()


def test_parts_can_have_rates_of_their_own(monkeypatch):
    """The longest prefix counts."""
    model = tiny_training.planned(monkeypatch).build(seed=0)
    optimiser = make_optimiser(model, recipe(rate_factors={"encoder.": 0.1, "encoder.prompts": 0.5}))
    names = {id(parameter): name for name, parameter in trained_parameters(model).items()}
    rates = {names[id(member)]: group["base"] for group in optimiser.param_groups for member in group["params"]}
    assert rates.keys() == trained_parameters(model).keys()
    assert rates["encoder.prompts"] == 5e-4 and rates["encoder.norm.weight"] == pytest.approx(1e-4)
    assert rates["decoder.masks.query.weight"] == 1e-3
    with pytest.raises(InputError, match="no trained parameter starts with 'encoders'; did you mean encoder"):
        make_optimiser(model, recipe(rate_factors={"encoders": 0.1}))


def test_one_update_is_adamw(monkeypatch):
    """Of the first step, AdamW's update is the sign of the gradient times the rate, after decay."""
    model = tiny_training.planned(monkeypatch).build(seed=0)
    optimiser = make_optimiser(model, recipe(rate=1e-2, weight_decay=0.1))
    before = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}
    for parameter in trained_parameters(model).values():
        parameter.grad = torch.full_like(parameter, -3.0)
    optimiser.step()
    for name, parameter in trained_parameters(model).items():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 1e-2 * 0.1) + 1e-2, atol=1e-6, rtol=1e-5)
