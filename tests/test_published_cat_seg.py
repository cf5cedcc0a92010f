"""Published checkpoints of CAT-Seg, in the layout of detectron2: they load as they are, without names of classes."""

import json
import sys
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import tiny_cat_seg
import tiny_clip
import tiny_heads
import torch
from step_by_step_cat_seg import AGGREGATOR, CLIP
from tiny_cat_seg import CLASSES, LAYERS, OPTIONS, UNTOLD, save_official, tuned_head
from tiny_heads import refused

import heads
from heads.checkpoint import read_metadata, save_checkpoint
from heads.clips import clip_fingerprint
from heads.published import resized
from proxyclip.backbones import build_clip
from proxyclip.backbones.checkpoints import import_library
from proxyclip.errors import InputError

BLOCK = f"{CLIP}.visual.transformer.resblocks.1"
APART = [f"{BLOCK}.attn.{part}_proj_weight" for part in "qkv"]
PADDING = f"{AGGREGATOR}.layers.0.attention.padding_tokens"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP."""
    return tiny_clip.save_folder(tmp_path_factory.mktemp("models") / "clip", **LAYERS)


@pytest.fixture(scope="module")
def trained(clip):
    return tuned_head(clip)


def choices(clip, **more) -> dict:
    return {"clip": clip, "device": "cpu", **{name: OPTIONS[name] for name in UNTOLD}, **more}


def labels(head) -> np.ndarray:
    return head.segment(tiny_clip.photograph(45, 60), CLASSES).labels


@pytest.mark.parametrize("options", [
    {}, {"finetune": "full"}, {"finetune": "frozen"}, {"finetune": "prompt", "prompts": 2}, {"pad_len": 0},
    {"layers": 1, "templates": ("a {}", "one {}", "some {}")}, {"window": 4}, {"guidance_features": (4, 3)},
], ids=str)  # fmt: skip
def test_they_load_as_they_are(tmp_path, clip, options):
    """The weights tell all but what has to be given: the sizes of images, and what leaves no trace in a shape."""
    made = tuned_head(clip, **options)
    told = {"layers", "prompts", "guidance_features"} | ({"finetune"} if "prompts" in options else set())
    given = {name: value for name, value in options.items() if name not in told}
    if "window" in options:  # nothing is shifted, so there is no mask
        given["clip_size"] = OPTIONS["clip_size"]
    file = save_official(tmp_path / "model_final.pth", made)
    found = heads.load(file, **choices(clip, **given))
    assert found.method == "CAT-Seg" and (found.classes, found.seen) == ((), ()) and not found.training
    assert found.options == made.options
    for name, value in made.trained().items():
        assert torch.equal(found.trained()[name], value), name
    assert torch.equal(tiny_heads.scores(found), tiny_heads.scores(made))
    assert np.array_equal(labels(found), labels(made))


def test_tuned_weights_are_used(clip, trained):
    """In the checks above a file that holds the CLIP of its start would not do."""
    start = tiny_cat_seg.head(build_clip.load(clip))
    assert (tiny_heads.scores(start) - tiny_heads.scores(trained)).abs().max() > 1e-3


def test_classes_are_optional(tmp_path, clip, trained):
    file = save_official(tmp_path / "a.pth", trained)
    facts = heads.plan(file, **choices(clip, classes=CLASSES, seen=CLASSES[:2])).checkpoint.metadata
    assert (facts.head, facts.classes, facts.seen) == ("cat_seg", CLASSES, CLASSES[:2])
    facts = heads.plan(file, **choices(clip, classes=CLASSES)).checkpoint.metadata
    assert facts.seen == CLASSES
    refused(file, "seen names sea, not among the classes", **choices(clip, classes=CLASSES, seen=["sea"]))
    embeddings = tiny_heads.embeddings_file(tmp_path / "a.npy", (5, 1, 16))
    refused(file, "does not say which classes text_embeddings are of", **choices(clip, text_embeddings=embeddings))
    found = heads.load(file, **choices(clip, classes=CLASSES, text_embeddings=embeddings))
    assert found.stored_text.shape == (5, 1, 16)


def test_a_head_without_classes_can_be_kept(tmp_path, clip, trained):
    """It belongs to the CLIP of the start, not to the one that it has become."""
    found = heads.load(save_official(tmp_path / "a.pth", trained), **choices(clip))
    save_checkpoint(tmp_path / "last.safetensors", found, {})
    assert read_metadata(tmp_path).classes == ()
    assert found.clip_fingerprint == clip_fingerprint(build_clip.load(clip)) != clip_fingerprint(found.clip)
    other = tiny_clip.save_folder(tmp_path / "clip", found.clip.model.state_dict(), **LAYERS)
    with pytest.raises(InputError, match="trained on another CLIP"):
        heads.load(tmp_path, clip=other)
    assert torch.equal(tiny_heads.scores(heads.load(tmp_path, clip=clip)), tiny_heads.scores(trained))


@pytest.mark.parametrize(("patch", "name", "sizes"), [
    (16, "ViT-B-16:openai", (384, (3, 7))), (14, "ViT-L-14-336:openai", (336, (7, 15))),
])  # fmt: skip
def test_the_clip_is_the_one_of_the_weights(tmp_path, clip, patch, name, sizes):
    """By its patches; before anything is downloaded, its shapes are compared."""
    made = tuned_head(clip, window=4)
    weights = {f"{CLIP}.visual.conv1.weight": torch.zeros(32, 3, patch, patch)}
    mask = f"{AGGREGATOR}.layers.0.swin_block.block_2.attn_mask"  # which tells the size, if it is there
    for masks in ({}, {mask: torch.zeros(4, 144, 144)}):
        file = save_official(tmp_path / "a.pth", made, **weights, **masks)
        facts = heads.open_checkpoint(file).metadata
        assert facts.clip == name and (facts.options["clip_size"], facts.options["guidance_blocks"]) == sizes
        assert (facts.mean, facts.std) == (made.normalise.mean, made.normalise.std)
        refused(file, f"holds another CLIP than {name}: it lacks .*resblocks", device="cpu")


def changed(name: str, rows=slice(None)):
    """A weight with other values in these rows."""

    def change(state):
        value = state[name].clone()
        value[rows] = 1.01 * value[rows] + 0.01
        return {name: value}

    return change


@pytest.mark.parametrize(("change", "finetune", "words"), [
    (changed(f"{BLOCK}.attn.k_proj_weight", 3), "attention", "resblocks.1.attn.in_proj_weight differ"),
    (changed(f"{BLOCK}.attn.q_proj_weight"), "frozen", "resblocks.1.attn.in_proj_weight differ"),
    (changed(f"{CLIP}.transformer.resblocks.0.attn.v_proj_weight"), "prompt", "resblocks.0.attn.in_proj_weight differ"),
    (changed(f"{BLOCK}.attn.in_proj_bias"), "attention", "resblocks.1.attn.in_proj_bias differ"),
    (changed(f"{BLOCK}.mlp.c_fc.weight"), "attention", "resblocks.1.mlp.c_fc.weight differ"),
    (changed(f"{CLIP}.visual.positional_embedding"), "full", "visual.positional_embedding differ"),
    (changed(f"{CLIP}.token_embedding.weight"), "full", "token_embedding.weight differ"),
])  # fmt: skip
def test_another_clip(tmp_path, clip, change, finetune, words):
    made = tuned_head(clip, finetune=finetune, prompts=2 if finetune == "prompt" else 0)
    file = save_official(tmp_path / "a.pth", made, **change(tiny_cat_seg.published_state(made)))
    refused(file, f"a.pth holds another CLIP than {clip}: .*{words}", True, **choices(clip, finetune=finetune))


def test_a_position_table_that_was_resized(tmp_path, clip, trained):
    """Unlike other heads, CAT-Seg keeps the table as it is."""
    visual = trained.clip.visual
    table = resized(visual.positional_embedding.detach(), visual.grid_size, 8)  # (1 + 8 * 8, D)
    file = save_official(tmp_path / "a.pth", trained, **{f"{CLIP}.visual.positional_embedding": table})
    refused(file, "a.pth holds another CLIP than .*: visual.positional_embedding differ", True, **choices(clip))


def test_blocks_that_were_trained_are_not_compared(tmp_path, clip):
    file = save_official(tmp_path / "a.pth", tuned_head(clip, finetune="full"))
    assert heads.load(file, **choices(clip, finetune="full")).options.finetune == "full"
    refused(file, "holds another CLIP", True, **choices(clip))  # "attention" is what was published


def test_the_rounding_of_half_precision_is_no_other_clip(tmp_path, clip, trained):
    halved = {name: value.half() for name, value in tiny_cat_seg.published_state(trained).items() if CLIP in name}
    found = heads.load(save_official(tmp_path / "a.pth", trained, **halved), **choices(clip))
    assert {value.dtype for value in found.trained().values()} == {torch.float32}
    assert 0 < (tiny_heads.scores(found) - tiny_heads.scores(trained)).abs().max() < 1e-2


@pytest.mark.parametrize(("change", "words"), [
    ({f"{CLIP}.ln_final.weight": None}, "another CLIP than .* it lacks ln_final.weight"),
    ({f"{BLOCK}.attn.v_proj_weight": None}, "it lacks visual.transformer.resblocks.1.attn.in_proj_weight"),
    ({f"{CLIP}.visual.more": torch.zeros(1)}, "it has unknown visual.more"),
    (dict.fromkeys(APART, torch.zeros(3, 32)), "in_proj_weight differ"),
    (dict.fromkeys(APART) | {f"{BLOCK}.attn.in_proj_weight": torch.zeros(1, 32)}, "in_proj_weight differ"),
    ({f"{AGGREGATOR}.conv1.weight": None}, "lacks aggregator.embed.weight"),
    ({f"{CLIP}.visual.conv1.weight": None, "upsample2.weight": None}, "lacks clip.model.visual.conv1.weight"),
    ({"upsample2.weight": None}, "lacks guidance_lifts.1.weight"),
    ({"upsample1.bias": None}, r"1 missing \(guidance_lifts.0.bias\)"),
    ({"upsample3.bias": torch.zeros(1)}, r"1 unexpected \(upsample3.bias\)"),
    ({PADDING: None}, r"1 missing \(aggregator.layers.0.classes.padding\)"),
    ({f"{AGGREGATOR}.head.bias": torch.zeros(3)}, r"of another shape \(aggregator.score.bias is \(3,\)"),
    ({f"{AGGREGATOR}.head.bias": torch.full((1,), torch.nan)}, "aggregator.score.bias contain values that are not fin"),
    ({f"{BLOCK}.attn.q_proj_weight": torch.full((32, 32), torch.inf)}, "in_proj_weight contain values that are not fi"),
    ({f"{CLIP}.ln_final.bias": torch.full((24,), torch.nan)}, "ln_final.bias differ"),
    ({f"{AGGREGATOR}.conv1.weight": torch.zeros(16, 8, 7, 7)}, "trained with 8 templates, not 1: give templates"),
])  # fmt: skip
def test_weights_that_are_missing_or_unexpected_are_named(tmp_path, clip, change, words, trained):
    refused(save_official(tmp_path / "a.pth", trained, **change), words, build=True, **choices(clip))


@pytest.mark.parametrize(("given", "words"), [
    ({"head": "zegclip"}, "a.pth is of cat_seg, not of zegclip"),
    ({"head": "catseg"}, "unknown head 'catseg'; did you mean cat_seg"),
    ({"hidden": 32}, "hidden is 32, but checkpoint .*a.pth was trained with 16"),
    ({"assumed": {"decoder": (64, 32)}}, r"decoder is \(64, 32\), but checkpoint .* was trained with \(32, 16\)"),
    ({"clip_size": 64}, "clip_size is 64, but .* was trained with 32"),
    ({"window": 4}, "window is 4, but .* was trained with 2"),
    ({"guidance": "resnet101"}, "guidance is resnet101, but .* was trained with clip"),
    ({"layers": 1}, "layers is 1, but .* was trained with 2"),
    ({"prompts": 3, "finetune": "prompt"}, "prompts is 3, but .* was trained with 0"),
    ({"templates": ["a {}", "{}"]}, "was trained with 1 templates, not 2: give templates"),
    ({"pad_len": 0}, "unexpected .aggregator.layers.0.classes.padding"),
    ({"finetune": "half"}, "finetune must be one of 'attention', 'full', 'prompt', 'frozen', not 'half'"),
    ({"guidance_blocks": (3, 7)}, r"guidance_blocks is \(3, 7\); choose blocks from 0 to 1"),
    ({"beta": 1.0}, "head cat_seg has no option 'beta'"),
])  # fmt: skip
def test_what_contradicts_the_file(tmp_path, clip, trained, given, words):
    file = save_official(tmp_path / "a.pth", trained)
    heads.plan(file, **choices(clip), assumed=OPTIONS)
    refused(file, words, build=True, **(choices(clip) | given))


def test_a_file_that_holds_all_of_clip_needs_no_other(tmp_path, trained, monkeypatch):
    """Its trained weights are in place when text is encoded."""
    tiny = tmp_path / "TinyTuned.json"
    tiny.write_text(json.dumps(tiny_clip.config(**LAYERS)))
    import_library("open_clip").add_model_config(tiny)
    monkeypatch.setattr("heads.published.LARGER", {1024: "TinyTuned:random"})
    monkeypatch.setattr("heads.build.load_clip", lambda *_: pytest.fail("a second CLIP"))
    found = heads.load(save_official(tmp_path / "a.pth", trained), **choices(None))
    assert torch.equal(tiny_heads.scores(found), tiny_heads.scores(trained))


def save_mmseg(path, head, hub=False, meta=None, **more) -> str:
    """As mmengine writes it. hub: with its record of losses, whose objects are of its own types."""
    history, module = ModuleType("mmengine.logging.history_buffer"), "mmengine.logging.history_buffer"
    exec(HISTORY_BUFFER, history.__dict__)  # noqa: S102
    stored = {"state_dict": tiny_cat_seg.mmseg_state(head) | more} | ({"meta": meta} if meta else {})
    names = {"mmengine": ModuleType("mmengine"), "mmengine.logging": ModuleType("mmengine.logging"), module: history}
    with patch.dict(sys.modules, names):
        if hub:
            stored["message_hub"] = {
                "log_scalars": {"train/loss": history.HistoryBuffer()},
                "runtime_info": {"iter": 5},
            }
        torch.save(stored, path)
    return str(path)


HISTORY_BUFFER = """
import numpy as np
class HistoryBuffer:
    def __init__(self):
        self.max_length, self.history, self.best = 9, np.arange(3.0), np.float64(0.5)
    def mean(self):
        return self.history.mean()
    def __getstate__(self):
        return self.__dict__ | {"statistics_methods": {"mean": HistoryBuffer.mean}}
"""


def test_mmsegmentations_project_loads(tmp_path, clip):
    """Its guidance comes from a ResNet-101; it evaluates windows of the image alone."""
    made = tuned_head(clip, guidance="resnet101", pad_len=0)
    file = save_mmseg(tmp_path / "a.pth", made, True, {"dataset_meta": {"classes": ("wall", "sky")}})
    found = heads.load(file, clip=clip, device="cpu", clip_size=32, guidance_blocks=(0, 1), window=2)
    assert found.method == "CAT-Seg v1 (R101)" and found.classes == ("wall", "sky")
    options = found.options
    assert (options.short_side, options.long_side, options.stride, options.square) == (512, 2048, 384, 0)
    for name, value in made.trained().items():
        assert torch.equal(found.trained()[name], value), name
    assert torch.equal(tiny_heads.scores(found), tiny_heads.scores(made))


@pytest.mark.parametrize(("change", "words"), [
    ({"backbone.feature_extractor.stages.0.weight": torch.zeros(1)}, "another guidance backbone than ResNet-101"),
    ({"decode_head.q_proj.weight": torch.zeros(1)}, r"1 unexpected \(aggregator.q_proj.weight\)"),
    ({"neck.layers.0.spatial_agg.block_1.attn.w_msa.relative_position_bias_table": torch.zeros(1)}, "1 unexpected"),
])  # fmt: skip
def test_mmsegmentations_project_is_never_taken_for_zegclip(tmp_path, clip, trained, change, words):
    file = save_mmseg(tmp_path / "a.pth", trained, **change)
    refused(file, words, True, **choices(clip), clip_size=32, window=2)


def test_the_first_version_of_the_authors_own_is_named(tmp_path, clip, trained):
    file = save_official(tmp_path / "a.pth", trained, **{"backbone.stem.conv1.weight": torch.zeros(1)})
    refused(file, "CAT-Seg's first version, with a guidance backbone as detectron2 names it", **choices(clip))


def test_files_of_other_heads_are_not_of_this_one(tmp_path, clip):
    four = tiny_heads.clip_folder(tmp_path / "clip")
    file = tiny_heads.save_official(tmp_path / "a.pth", tiny_heads.head("zegclip", four))
    names = {"classes": tiny_heads.CLASSES, "seen": tiny_heads.SEEN}
    refused(file, "is of zegclip or otseg, not of cat_seg", clip=four, head="cat_seg", **names)


def test_no_padding_is_told(tmp_path, clip):
    file = save_official(tmp_path / "a.pth", tuned_head(clip, pad_len=0))
    refused(file, "pad_len is 8, but .* was trained with 0", **choices(clip))
    assert heads.plan(file, **choices(clip, pad_len=None)).options.pad_len == 0
    metadata = heads.open_checkpoint(save_official(tmp_path / "a.pth", tuned_head(clip))).metadata
    assert metadata.options.get("pad_len") is None
