"""Checkpoints of CAT-Seg that training here wrote: with tuned weights of CLIP, and what may change afterwards."""

from dataclasses import fields

import numpy as np
import pytest
import tiny_cat_seg
import tiny_clip
import tiny_heads
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_cat_seg import CLASSES, LAYERS, OPTIONS, tuned_head
from tiny_heads import refused

import heads
from heads.cat_seg import Head, Options
from heads.checkpoint import load_weights, read_metadata, save_checkpoint
from heads.clips import clip_fingerprint
from proxyclip.backbones import build_clip
from proxyclip.errors import InputError
from proxyclip.vocabulary import Vocabulary

MODES = {"attention": {}, "full": {}, "prompt": {"prompts": 2}, "frozen": {}}
TUNED = {"attention": 4, "full": 4 * 12, "prompt": 0, "frozen": 0}  # weights of three blocks and of one
IN_PROJ = "clip.model.visual.transformer.resblocks.1.attn.in_proj_weight"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP."""
    return tiny_clip.save_folder(tmp_path_factory.mktemp("models") / "clip", **LAYERS)


@pytest.fixture
def run(tmp_path, clip):
    """The folder of a training run."""
    return saved(tmp_path / "run", tuned_head(clip))


def saved(folder, head):
    folder.mkdir()
    save_checkpoint(folder / "last.safetensors", head, {"dataset": "garden"})
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_a_head_comes_back_as_it_was(mode, tmp_path, clip):
    """Also a second time: the weights that are loaded do not change the CLIP that the next one starts from."""
    made = tuned_head(clip, finetune=mode, **MODES[mode])
    run = saved(tmp_path / "run", made)
    for _ in range(2):
        found = heads.load(run, clip=clip, device="cpu")
        assert found.settings() == made.settings() and found.options == made.options
        assert (found.classes, found.seen) == (CLASSES, CLASSES) and not found.training
        assert not any(weight.requires_grad for weight in found.clip.parameters())
        assert torch.equal(tiny_heads.scores(found), tiny_heads.scores(made))
        image = tiny_clip.photograph(45, 60)
        assert np.array_equal(*(model.segment(image, CLASSES).labels for model in (found, made)))


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_holds_what_was_trained(mode, tmp_path, clip):
    made = tuned_head(clip, finetune=mode, **MODES[mode])
    run = saved(tmp_path / "run", made)
    held = load_file(run / "last.safetensors")
    tuned = {name for name in held if name.startswith("clip.")}
    assert held.keys() == made.trained().keys() and tuned == made.tuned and len(tuned) == TUNED[mode]
    facts, start = read_metadata(run), build_clip.load(clip)
    assert (facts.head, facts.clip, facts.options["finetune"]) == ("cat_seg", "clip", mode)
    assert facts.clip_fingerprint == clip_fingerprint(start)
    assert (clip_fingerprint(made.clip) == facts.clip_fingerprint) == (not tuned)
    own = start.model.state_dict()
    assert all(not torch.equal(held[name], own[name.removeprefix("clip.model.")]) for name in tuned)


def test_a_head_can_be_kept_again(tmp_path, clip, run):
    """What was loaded belongs to the CLIP of the start, too."""
    again = saved(tmp_path / "again", heads.load(run, clip=clip))
    assert read_metadata(again).clip_fingerprint == read_metadata(run).clip_fingerprint
    assert torch.equal(*(tiny_heads.scores(heads.load(folder, clip=clip)) for folder in (run, again)))


def test_another_clip_is_refused(tmp_path, clip, run):
    """Even if it is the one that the head's CLIP has become."""
    trained = tuned_head(clip).clip.model.state_dict()
    shifted = build_clip.load(clip).model.state_dict()
    shifted["visual.proj"] = shifted["visual.proj"] * 1.01
    for name, state in (("trained", trained), ("shifted", shifted)):
        folder = tiny_clip.save_folder(tmp_path / name, state, **LAYERS)
        refused(run, f"was trained on another CLIP: clip with fingerprint .*, but {name} has", build=True, clip=folder)


def test_a_head_can_start_from_another_ones_weights(clip, run):
    start = tiny_cat_seg.head(build_clip.load(clip), ("sea", "sand"), ("sea",))
    load_weights(start, heads.open_checkpoint(run))
    expected = tuned_head(clip).trained()
    assert all(torch.equal(start.trained()[name], value) for name, value in expected.items())
    trained = tuned_head(clip)
    with pytest.raises(InputError, match="trained on another CLIP"):
        load_weights(trained, heads.open_checkpoint(run))  # its CLIP is not the one of the start any more


def test_text_embeddings_are_those_of_the_tuned_text_tower(clip, run):
    """On disk as well, where those of the CLIP of the start may lie."""
    vocabulary = Vocabulary.parse(CLASSES)
    start = tiny_cat_seg.head(build_clip.load(clip), finetune="frozen").encode_classes(vocabulary)
    for _ in range(2):
        found = heads.load(run, clip=clip).encode_classes(vocabulary)
        assert torch.equal(found, tuned_head(clip).encode_classes(vocabulary))
        assert (found - start).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "value"), [
    ("short_side", 48), ("square", 48), ("crop", 0), ("crop", 24), ("stride", 4), ("synonyms", "mean"),
    ("evaluation_pooling", 2), ("templates", ("one {}",)), ("seen_penalty", 0.2),
])  # fmt: skip
def test_what_may_change_after_training(name, value, clip, run):
    """Each of them changes the result."""
    model, before = (heads.load(run, clip=clip, **given) for given in ({name: value}, {}))
    assert getattr(model.options, name) == value != getattr(before.options, name)
    assert model.settings()[name] == (len(value) if name == "templates" else value)
    image = tiny_clip.photograph(45, 60)
    one, other = (found.segment(image, CLASSES) for found in (model, before))
    if name != "seen_penalty":  # which is the same for all of these names
        assert not np.array_equal(one.confidence, other.confidence)


def test_what_is_part_of_the_training_may_not(clip, run):
    for entry in fields(Options):
        if entry.name not in Head.CHANGEABLE:
            refused(
                run, f"^{entry.name} is part of the training of .* evaluation_pooling can", clip=clip, **{entry.name: 1}
            )


@pytest.mark.parametrize(("change", "words"), [
    ({IN_PROJ: None}, rf"1 missing \({IN_PROJ}\)"),
    ({IN_PROJ.replace("weight", "bias"): torch.zeros(96)}, "1 unexpected .*in_proj_bias"),
    ({IN_PROJ: torch.zeros(32, 32)}, "of another shape .*in_proj_weight"),
    ({IN_PROJ: torch.full((96, 32), torch.nan)}, "in_proj_weight contain values that are not finite"),
    ({"aggregator.embed.weight": torch.zeros(16, 2, 7, 7)}, "of another shape .*aggregator.embed.weight"),
])  # fmt: skip
def test_weights_that_do_not_fit(change, words, clip, run):
    file = run / "last.safetensors"
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    save_file({name: value for name, value in (load_file(file) | change).items() if value is not None}, file, header)
    refused(run, words, build=True, clip=clip)


@pytest.mark.parametrize(("given", "words"), [
    ({"templates": ("a {}", "one {}")}, "of another shape .*aggregator.embed.weight"),
    ({"square": 24}, "square is 24; it must be at least 32"),
    ({"evaluation_pooling": 3}, "evaluation_pooling 3 does not divide the 4 patches along a side of clip_size"),
    ({"evaluation_pooling": 0}, "evaluation_pooling is 0; it must be at least 1"),
    ({"synonyms": "all"}, "synonyms must be one of 'first', 'mean', not 'all'"),
    ({"crop": 8, "stride": 16}, "stride 16 above crop 8"),
])  # fmt: skip
def test_choices_that_are_wrong(given, words, clip, run):
    refused(run, words, build=True, clip=clip, **given)


@pytest.mark.parametrize(("given", "words"), [
    ({"clip_size": 0}, "clip_size is 0; it must be at least 1"),
    ({"square": 31}, "square is 31; it must be at least 32"),
    ({"square": -1, "crop": 0}, "square is -1; it must be at least 1"),
    ({"long_side": 39}, "long_side is 39; it must be at least 40"),
    *(({name: 0}, f"{name} is 0; it must be at least 1") for name in (
        "layers", "attention_heads", "window", "hidden", "pooling", "evaluation_pooling", "image_guidance",
        "text_guidance")),
    ({"pad_len": -1}, "pad_len is -1; it must be at least 0"),
    ({"prompts": -1}, "prompts is -1; it must be at least 0"),
    ({"guidance_features": (0, 6)}, r"guidance_features is \(0, 6\); choose positive widths"),
    ({"decoder_guidance": (6, -4)}, r"decoder_guidance is \(6, -4\); choose positive widths"),
    ({"decoder": (0, 16)}, r"decoder is \(0, 16\); choose positive widths"),
    ({"decoder": (24, 16)}, r"decoder is \(24, 16\); choose multiples of 16, the size of its norms' groups"),
    ({"attention_heads": 3}, "attention_heads 3 does not divide hidden 16"),
    ({"decoder_guidance": (16, 4)}, "decoder_guidance 16 must be below the 16 channels that it joins"),
    ({"decoder_guidance": (6, 32)}, "decoder_guidance 32 must be below the 32 channels that it joins"),
    ({"prompts": 2}, "finetune is 'attention' with 2 prompts; they go with 'prompt' alone"),
    ({"finetune": "prompt"}, "finetune is 'prompt' with 0 prompts; they go with 'prompt' alone"),
])  # fmt: skip
def test_options_that_are_wrong(given, words):
    with pytest.raises(InputError, match=f"^{words}$"):
        Options(**OPTIONS | given)


@pytest.mark.parametrize(("given", "words"), [
    ({"clip_size": 7}, "clip_size 7 is smaller than one patch"),
    ({"guidance_blocks": (0, 2)}, r"guidance_blocks is \(0, 2\); choose blocks from 0 to 1"),
    ({"guidance_blocks": (-1, 1)}, r"guidance_blocks is \(-1, 1\); choose blocks from 0 to 1"),
    ({"window": 3}, "window 3 does not divide the 4 patches along a side of clip_size"),
    ({"pooling": 3}, "pooling 3 does not divide the 4 patches"),
    ({"evaluation_pooling": 8}, "evaluation_pooling 8 does not divide the 4 patches"),
])  # fmt: skip
def test_options_that_do_not_fit_the_clip(given, words):
    with pytest.raises(InputError, match=f"^{words}"):
        tiny_cat_seg.head(**given)
