"""Key names of published checkpoints, beyond what the reference cases have."""

import pytest
import tiny_head
import torch

from heads.official import from_official, is_official

LAYER = "decode_head.decoder_1.layers.{}.{}.weight"


def own(name, **options):
    return {*tiny_head.head(name, **options).trained()}


def translated(names, own):
    return {*from_official({name: torch.zeros(1) for name in names}, own)[0]}


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_layer_of_a_decoder_is_its_scores(layers):
    known = own("zegclip", decoder_layers=layers)
    for layer in range(layers):
        last = layer == layers - 1
        found = translated([LAYER.format(layer, "multihead_attn.q")], known)
        assert found == {"decoder.masks.query.weight" if last else f"decoder.attentions.{layer}.query.weight"} <= known
        for part in ("multihead_attn.v", "multihead_attn.proj", "linear1", "norm2", "norm3"):
            found = translated([LAYER.format(layer, part)], known)
            assert found == set() if last else found and found <= known
        assert translated([LAYER.format(layer, part) for part in ("self_attn.out_proj", "norm1")], known) == set()


def test_the_last_layer_of_otseg_keeps_its_place():
    known = own("otseg")
    found = translated([LAYER.format(2, f"multihead_attn.{part}") for part in ("q", "k", "v", "proj")], known)
    assert found == {"decoder.attentions.2.query.weight", "decoder.attentions.2.key.weight"} <= known


@pytest.mark.parametrize("name", ["zegclip", "otseg"])
def test_weights_of_another_shape_of_decoder_are_not_dropped(name):
    """A strict load has to name them: they belong to a deeper decoder, or to one of another kind."""
    known = own(name, decoder_layers=2)
    for unknown in (LAYER.format(2, "multihead_attn.q"), LAYER.format(2, "linear1"), LAYER.format(0, "gate")):
        (found,) = translated([unknown], known)
        assert found not in known


def test_prompts_of_the_first_block_only():
    shallow, deep = own("zegclip", prompt_blocks=0), own("zegclip")
    norm = ["backbone.prompt_norm.weight"]
    assert translated(norm, shallow) == set() and translated(norm, deep) == {"encoder.norm.weight"} <= deep
    trained, _ = from_official({"backbone.prompt_embeddings": torch.ones(1, 3, 32)}, shallow)
    assert trained["encoder.prompts"].shape == (1, 3, 32)


def test_frozen_weights_have_the_names_of_open_clip():
    state = {"backbone.proj": torch.zeros(1), "text_encoder.ln_final.bias": torch.zeros(1)}
    trained, frozen = from_official(state, own("zegclip"))
    assert not trained and {*frozen} == {"visual.proj", "ln_final.bias"}
    assert {*frozen} <= {*tiny_head.four_blocks().model.state_dict()}


def test_published_names_are_recognised():
    assert is_official({"decode_head.q_proj.weight": torch.zeros(1)})
    assert not is_official(tiny_head.head("zegclip").trained())
