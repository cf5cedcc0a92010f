"""Names of weights in published checkpoints, beyond what the reference cases have."""

import json
import os
from pathlib import Path

import pytest
import tiny_cat_seg
import tiny_head
import torch

from heads.published import own_weights

LAYER = "decode_head.decoder_1.layers.{}.{}.weight"
CLIP, AGGREGATOR = "sem_seg_head.predictor.clip_model.", "sem_seg_head.predictor.transformer."
TABLE = Path(os.environ.get("GOLDEN_DIR", "nowhere"), "heads", "catseg_trainable.json")


def own(name, **options):
    return {*tiny_head.head(name, **options).trained()}


def translated(names, head="zegclip"):
    return {*own_weights({name: torch.zeros(2) for name in names}, head)}


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_layer_of_a_decoder_is_its_scores(layers):
    known = own("zegclip", decoder_layers=layers)
    parts = ("multihead_attn.q", "multihead_attn.v", "multihead_attn.proj", "linear1", "norm2", "norm3", "norm1")
    found = translated([LAYER.format(layer, part) for layer in range(layers) for part in parts])
    assert found == {name for name in known if name.endswith("weight") and name.startswith("decoder.")
                     and ".key." not in name and ".narrow." not in name}  # fmt: skip


def test_the_last_layer_of_otseg_keeps_its_place():
    found = translated([LAYER.format(2, f"multihead_attn.{part}") for part in ("q", "k", "v", "proj")], "otseg")
    assert found == {"decoder.attentions.2.query.weight", "decoder.attentions.2.key.weight"} <= own("otseg")


def test_prompts_of_the_first_block_only():
    """The published encoder then has a norm that takes part in nothing."""
    names = ["backbone.prompt_norm.weight", "backbone.prompt_embeddings"]
    assert translated(names) == {"encoder.prompts"}
    assert translated([*names, "backbone.deep_prompt_embeddings"]) == {"encoder.prompts", "encoder.norm.weight"}


@pytest.mark.parametrize(
    "options", [{}, {"finetune": "full"}, {"finetune": "frozen", "pad_len": 0}, {"finetune": "prompt", "prompts": 2}]
)
@pytest.mark.parametrize("state", [tiny_cat_seg.published_state, tiny_cat_seg.mmseg_state])
def test_cat_seg_there_and_back(options, state):
    head = tiny_cat_seg.head(**options)
    found = own_weights(state(head), "cat_seg")
    expected = {name: value for name, value in head.state_dict().items() if "logit_scale" not in name}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(("name", "head"), [
    ("decode_head.decoder_1.layers.0.gate", "zegclip"), ("decode_head.input_proj_1.weight", "otseg"),
    ("upsample3.weight", "cat_seg"), ("sem_seg_head.pixel_decoder.weight", "cat_seg"),
    (f"{AGGREGATOR}layers.0.attention.attention.proj.weight", "cat_seg"), (f"{AGGREGATOR}conv2.weight", "cat_seg"),
    (f"{CLIP}visual.transformer.resblocks.0.attn.v_proj_weight", "cat_seg"),
])  # fmt: skip
def test_names_that_are_not_known_are_kept(name, head):
    """So that a strict load names them; a third of a projection is none."""
    (found,) = translated([name], head)
    assert found not in tiny_cat_seg.head().state_dict() and name.rpartition(".")[2] in found


@pytest.mark.skipif(not TABLE.is_file(), reason="needs $GOLDEN_DIR")
def test_names_of_the_reference_data():
    """The published model has the names that `published_state` gives, and trains the same parameters."""
    table = json.loads(TABLE.read_text())
    head = tiny_cat_seg.head(tiny_cat_seg.tiny_clip.clip(vision={"layers": 9}, text={"layers": 2}), layers=2)
    state = tiny_cat_seg.published_state(head)
    assert {*state} == {*table["all_state_dict_keys"]}
    for mode, tuned in (("attention", "attention"), ("full", "full"), ("freeze", "frozen")):
        names = [f"{CLIP}{name}" for name in table[mode]["clip_trainable"]] + table["non_clip_trainable"]
        # Keys are trained with the queries here, without gradients.
        names += [name.replace(".q_proj", ".k_proj") for name in names]
        own = {*tiny_cat_seg.head(head.clip, finetune=tuned, layers=2).trained()} - {"stored_text"}
        assert {*own_weights({name: state[name] for name in names}, "cat_seg")} == own
