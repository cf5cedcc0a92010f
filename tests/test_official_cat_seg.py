"""Weights of CAT-Seg under the names of its published checkpoints."""

import json
import os
from pathlib import Path

import pytest
import tiny_cat_seg
import torch

from heads.official import is_official
from heads.official_cat_seg import from_official_cat_seg, is_official_cat_seg

CLIP, AGGREGATOR = "sem_seg_head.predictor.clip_model.", "sem_seg_head.predictor.transformer."
TABLE = Path(os.environ.get("GOLDEN_DIR", "nowhere"), "heads", "catseg_trainable.json")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    "options", [{}, {"finetune": "full"}, {"finetune": "frozen", "pad_len": 0}, {"finetune": "prompt", "prompts": 2}]
)
def test_there_and_back(options):
    head = tiny_cat_seg.head(**options)
    trained, frozen = from_official_cat_seg(tiny_cat_seg.published_state(head), {*head.trained()})
    assert_same(trained, {name: value for name, value in head.trained().items() if name != "stored_text"})
    tuned = {name.removeprefix("clip.model.") for name in trained if name.startswith("clip.")}
    whole = head.clip.model.state_dict()
    assert_same(frozen, {name: value for name, value in whole.items() if name not in tuned | {"logit_scale"}})


def test_names_that_are_not_known_stay():
    """A strict load has to name them."""
    unknown = [f"{AGGREGATOR}{name}" for name in ("conv2.weight", "layers.0.swin_block.block_3.norm1.bias", "head")]
    unknown += [f"{AGGREGATOR}layers.0.attention.attention.proj.weight", "upsample3.weight", "backbone.stem.weight"]
    trained, frozen = from_official_cat_seg(dict.fromkeys(unknown, torch.zeros(1)), set())
    assert {*trained} == {*unknown} and not frozen


def test_a_projection_that_is_not_whole_stays():
    block = "visual.transformer.resblocks.0.attn"
    names = [f"{block}.q_proj_weight", f"{block}.v_proj_weight"]
    trained, frozen = from_official_cat_seg({CLIP + name: torch.zeros(2, 2) for name in names}, set())
    assert {*frozen} == {*names} and not trained


def test_published_names_are_recognised():
    head = tiny_cat_seg.head()
    state = tiny_cat_seg.published_state(head)
    assert is_official_cat_seg(state) and not is_official(state)
    assert not is_official_cat_seg(head.trained())
    assert not is_official_cat_seg({"decode_head.q_proj.weight": torch.zeros(1)})


@pytest.mark.skipif(not TABLE.is_file(), reason="needs $GOLDEN_DIR")
def test_names_of_the_reference_data():
    """The published model has the names that `published_state` gives, and trains the same parameters."""
    table = json.loads(TABLE.read_text())
    head = tiny_cat_seg.head(tiny_cat_seg.tiny_clip.clip(vision={"layers": 9}, text={"layers": 2}), layers=2)
    state = tiny_cat_seg.published_state(head)
    assert {*state} == {*table["all_state_dict_keys"]}
    own = {*head.trained()}
    for mode, tuned in (("attention", "attention"), ("full", "full"), ("freeze", "frozen")):
        names = [f"{CLIP}{name}" for name in table[mode]["clip_trainable"]] + table["non_clip_trainable"]
        keys = [
            name.replace(".q_proj", ".k_proj") for name in names
        ]  # trained with the queries here, without gradients
        own = {*tiny_cat_seg.head(head.clip, finetune=tuned, layers=2).trained()} - {"stored_text"}
        trained, frozen = from_official_cat_seg({name: state[name] for name in [*names, *keys]}, own)
        assert {*trained} == own and not frozen
