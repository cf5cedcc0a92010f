"""The constants of a model: exact in every precision, and in no state dict."""

import pytest
import torch
from tiny_vfm import images, tiny

from proxyclip.backbones.layers import Normalise
from proxyclip.errors import InputError
from proxyclip.images import normalise

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
