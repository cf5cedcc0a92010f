"""Published checkpoints, in the layout of mmsegmentation: they load as they are, and what they lack has to be given."""

import json

import pytest
import tiny_clip
import tiny_heads
import torch
from tiny_heads import CLASSES, OWN, SEEN, official_state, refused, scores

import heads
from heads.published import COUNT, own_weights
from proxyclip.backbones.checkpoints import import_library

NAMES = {"classes": CLASSES, "seen": SEEN}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP."""
    return tiny_heads.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def zegclip(clip):
    return tiny_heads.head("zegclip", clip)


def choices(name: str, clip: str, **more) -> dict:
    """What is to be said about a published checkpoint."""
    return {"head": name, "clip": clip, "decoder_heads": 2, "device": "cpu", **NAMES, **OWN[name], **more}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["plain", "module.", "older format", "converted", "without text tower"])
def test_they_load_as_they_are(tmp_path, clip, name, kind):
    made = tiny_heads.head(name, clip)
    prefix = kind if kind == "module." else ""
    without = {key: None for key in official_state(made) if key.startswith("text_encoder.") and kind.startswith("with")}
    file = tmp_path / ("a.safetensors" if kind == "converted" else "a.pth")
    tiny_heads.save_official(file, made, prefix, whole=kind != "older format", **without)
    found = heads.load(file, **choices(name, clip))
    assert found.method == made.method and (found.classes, found.seen) == (CLASSES, SEEN)
    assert torch.equal(scores(found), scores(made))
    assert (found.options.prompts, found.options.image_size, found.options.decoder_layers) == (3, 48, 3)
    assert dict(found.label_rule.subtract) == dict.fromkeys(SEEN, 0.1)


@pytest.mark.parametrize("options", [
    {"prompt_blocks": 0}, {"prompt_blocks": 2}, {"prompt_blocks": -1}, {"prompt_blocks": -2}, {"image_size": 32},
    {"prompts": 1}, {"decoder_layers": 1}, {"decoder_layers": 2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["zegclip", "otseg"])
def test_what_shapes_tell_is_read_from_them(tmp_path, clip, name, options):
    made = tiny_heads.head(name, clip, **options)
    file = tiny_heads.save_official(tmp_path / "a.pth", made)
    found = heads.load(file, **choices(name, clip))
    ((option, value),) = options.items()
    assert getattr(found.options, option) == value
    assert torch.equal(scores(found), scores(made))


def test_sizes_follow_the_training_crops_unless_given(tmp_path, clip, zegclip):
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip)
    options = heads.plan(file, **choices("zegclip", clip)).options
    assert (options.short_side, options.crop, options.stride) == (48, 48, 48)
    options = heads.plan(file, **choices("zegclip", clip), assumed={"crop": 40, "stride": 8}, stride=16).options
    assert (options.short_side, options.crop, options.stride) == (48, 40, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_rounding_of_half_precision_is_no_other_clip(tmp_path, clip, zegclip, dtype):
    state = official_state(zegclip)
    halved = {name: value.to(dtype) for name, value in state.items() if not name.startswith("decode_head")}
    found = heads.load(tiny_heads.save_official(tmp_path / "a.pth", zegclip, **halved), **choices("zegclip", clip))
    assert {value.dtype for value in found.trained().values()} == {torch.float32}
    assert (scores(found) - scores(zegclip)).abs().max() < (1e-2 if dtype == torch.float16 else 5e-2)


@pytest.mark.parametrize(("given", "words"), [
    ({"head": None}, "is of zegclip or of otseg, whose weights have the same names: say which head it is"),
    ({"head": "cascade_clip"}, "is of zegclip or otseg, not of cascade_clip"),
    ({"head": "zegclp"}, "unknown head 'zegclp'; did you mean zegclip"),
    ({"classes": None}, "does not say which classes it was trained on: give classes, or its training configuration"),
    ({"seen": None}, "give seen, or"),
    ({"classes": None, "seen": None}, "give classes and seen, or"),
    ({"seen": ("sea",)}, "seen names sea, not among the classes"),
    ({"seen": SEEN[:2]}, "was trained with other classes than those given: 3, not 5, 2 of them seen"),
    ({"classes": "sky"}, "classes must be a list of names"),
    ({"prompts": 4}, "prompts is 4, but checkpoint .*a.pth was trained with 3"),
    ({"assumed": {"decoder_layers": 2}}, "decoder_layers is 2, but checkpoint .* was trained with 3"),
    ({"assumed": {"prompt_blocks": 2}}, "prompt_blocks is 2, but .* was trained with 3"),
    ({"image_size": 512}, "image_size is 512, but .* was trained with 48"),
    ({"beta": 2.0}, "head zegclip has no option 'beta'"),
])  # fmt: skip
def test_what_is_missing_or_contradicts_the_file(tmp_path, clip, given, words, zegclip):
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip)
    heads.plan(file, **choices("zegclip", clip), assumed={"prompt_blocks": None, "prompts": 3})
    refused(file, words, **(choices("zegclip", clip) | given))


def test_cascade_clip_is_recognised_and_its_blocks_are_counted(tmp_path, clip):
    file = tiny_heads.save_official(tmp_path / "a.pth", tiny_heads.head("cascade_clip", clip))
    given = choices("cascade_clip", clip)
    assert heads.plan(file, **given | {"head": None}).name == "cascade_clip"
    refused(file, "is of cascade_clip, not of zegclip", **given | {"head": "zegclip"})
    refused(file, "uses 2 blocks besides the last: name them with levels, not \\(5, 6", **given | {"levels": None})
    refused(file, "group_size is 2, but .* trained with 1", **given | {"group_size": 2})


@pytest.mark.parametrize(("count", "setting", "penalty"), [
    (3, None, 0.1), (3, "inductive", 0.1), (5, None, 0.0), (5, "transductive", 0.0), (None, "inductive", 0.1),
])  # fmt: skip
def test_the_number_of_classes_tells_the_setting(tmp_path, clip, zegclip, count, setting, penalty):
    """Nothing is subtracted after transductive training."""
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip, **{COUNT: count and torch.ones(count + 1)})
    given = choices("zegclip", clip, training={"dataset": "voc20", "setting": setting})
    assert heads.plan(file, **given).options.seen_penalty == penalty
    assert heads.plan(file, **given, seen_penalty=0.3).options.seen_penalty == 0.3


@pytest.mark.parametrize(("count", "setting", "words"), [
    (5, "inductive", "is of transductive training: its loss has all 5 classes, but that of inductive training has 3; "
                     "choose the transductive configuration"),
    (3, "transductive", "is of inductive training: its loss has the seen 3 classes, but that of transductive training "
                        "has 5; choose the inductive configuration"),
])  # fmt: skip
def test_a_file_of_another_setting(tmp_path, clip, zegclip, count, setting, words):
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip, **{COUNT: torch.ones(count + 1)})
    refused(file, words, **choices("zegclip", clip, training={"dataset": "voc20", "setting": setting}))


def test_transductive_runs_whose_loss_has_the_seen_classes_alone(tmp_path, clip, zegclip):
    """On COCO-Stuff, such files cannot be told from inductive ones."""
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip)
    training = {"dataset": "coco_stuff164k", "setting": "transductive"}
    planned = heads.plan(file, **choices("zegclip", clip, training=training), assumed={"seen_penalty": 0.0})
    assert planned.options.seen_penalty == 0.0


@pytest.mark.parametrize("name", OWN)
def test_a_file_that_holds_all_of_clip_needs_no_other(tmp_path, clip, name, monkeypatch):
    """Its position table is that of the training crops."""
    tiny = tmp_path / "Tiny.json"
    tiny.write_text(json.dumps(tiny_clip.config(**tiny_heads.LAYERS)))
    import_library("open_clip").add_model_config(tiny)
    monkeypatch.setattr("heads.published.BASE", "Tiny:random")
    monkeypatch.setattr("heads.build.load_clip", lambda *_: pytest.fail("a second CLIP"))
    made = tiny_heads.head(name, clip)
    file = tiny_heads.save_official(tmp_path / "a.pth", made)
    found = heads.load(file, **choices(name, None))
    assert found.settings()["clip"] == "Tiny:random"
    torch.testing.assert_close(scores(found), scores(made))
    without = {key: None for key in official_state(made) if key.startswith("text_encoder.")}
    tiny_heads.save_official(file, made, **without)
    with pytest.raises(pytest.fail.Exception, match="a second CLIP"):
        heads.load(file, **choices(name, None))


def test_class_names_in_the_file_are_used_and_compared(tmp_path, clip, zegclip):
    meta = {"CLASSES": ("Sky", "grass", "car", "boat", "tree")}
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip, meta=meta)
    assert heads.plan(file, **choices("zegclip", clip)).checkpoint.metadata.classes == CLASSES
    found = heads.plan(file, **choices("zegclip", clip, classes=None, seen=["Sky", "car", "tree"]))
    assert found.checkpoint.metadata.classes == meta["CLASSES"]
    refused(
        file, r"trained with other classes .* their order differs", **choices("zegclip", clip, classes=CLASSES[::-1])
    )


@pytest.mark.parametrize("name", [
    "backbone.conv1.weight", "backbone.positional_embedding", "backbone.transformer.resblocks.1.attn.in_proj_weight",
    "text_encoder.ln_final.bias",
])  # fmt: skip
def test_another_clip(tmp_path, clip, name, zegclip):
    own = official_state(zegclip)[name]
    other = name.replace("backbone.", "visual.").replace("text_encoder.", "")
    for value in (own * 1.01, own[..., 1:]):
        file = tiny_heads.save_official(tmp_path / "a.pth", zegclip, **{name: value})
        refused(file, f"holds another CLIP than {clip}: {other} differ", build=True, **choices("zegclip", clip))


@pytest.mark.parametrize(("change", "words"), [
    ({"backbone.ln_pre.weight": None}, "another CLIP than .* it lacks visual.ln_pre.weight"),
    ({"text_encoder.ln_final.weight": None}, "it lacks ln_final.weight"),
    ({"backbone.more": torch.zeros(1)}, "it has unknown visual.more"),
    ({"decode_head.q_proj.bias": None}, r"1 missing \(descriptor.projection.bias\)"),
    ({"decode_head.input_proj_1.weight": torch.zeros(1)}, r"1 unexpected \(decode_head.input_proj_1.weight\)"),
    ({"decode_head.q_proj.bias": torch.zeros(3)}, r"of another shape \(descriptor.projection.bias is \(3,\)"),
    ({"decode_head.q_proj.bias": torch.full((16,), torch.inf)}, "projection.bias contain values that are not finite"),
    ({"backbone.prompt_proj.weight": None}, r"1 missing \(encoder.projection.weight\)"),
    ({"backbone.prompt_embeddings": None, "backbone.deep_prompt_embeddings": None}, "has no prompts"),
    ({"backbone.positional_embedding": torch.zeros(36, 32)}, "positions for 35 patches, which form no square"),
])  # fmt: skip
def test_weights_that_are_missing_or_unexpected_are_named(tmp_path, clip, change, words, zegclip):
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip, **change)
    refused(file, words, build=True, **choices("zegclip", clip))


def test_shapes_are_compared_before_anything_is_downloaded(tmp_path, clip, zegclip):
    """Without another CLIP named, published checkpoints are of ViT-B/16."""
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip)
    refused(file, "another CLIP than ViT-B-16:openai", **choices("zegclip", None))


def test_files_that_are_something_else(tmp_path, clip, zegclip):
    state = {"state_dict": {"sem_seg_head.predictor.conv1.weight": torch.zeros(1)}}
    for name, held, words in (
        ("a.pth", state, "is of no known kind"),
        ("b.pth", {"state_dict": {"decode_head.decoder_1.a": torch.zeros(1)}}, "lacks clip.model.visual.posit"),
        ("c.pth", {"meta": {}}, "contains no named tensors"),
        ("d.pth", {"state_dict": {}, "meta": print}, "contains Python objects besides tensors .* its state_dict alone"),
    ):
        torch.save(held, tmp_path / name)
        refused(tmp_path / name, words, head="zegclip", **NAMES)
    made = official_state(zegclip)
    decoderless = {name: value for name, value in made.items() if not name.startswith("decode_head")}
    torch.save(decoderless, tmp_path / "e.pth")
    refused(tmp_path / "e.pth", "is of no known kind", head="zegclip", **NAMES)
    (tmp_path / "f.pth").write_bytes((tmp_path / "e.pth").read_bytes()[:5000])
    refused(tmp_path / "f.pth", "cannot be read .* damaged, or not a checkpoint", head="zegclip", **NAMES)


class Runs:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_a_file_with_code_does_not_run_it(tmp_path):
    marker = tmp_path / "was-here"
    stored = {"state_dict": {"backbone.conv1.weight": torch.zeros(1)}, "meta": Runs(marker)}
    torch.save(stored, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "is rejected: it contains Python objects", head="zegclip", **NAMES)
    assert not marker.exists()


def test_text_embeddings_of_the_training_are_read_from_their_file(tmp_path, clip, zegclip):
    file = tiny_heads.save_official(tmp_path / "a.pth", zegclip)
    embeddings = tiny_heads.embeddings_file(tmp_path / "a.npy", (5, 16))
    for given in ({"text_embeddings": embeddings}, {"assumed": {"text_embeddings": embeddings}}):
        found = heads.load(file, **choices("zegclip", clip, **given))
        assert found.stored_text.shape == (5, 16) and not torch.equal(scores(found), scores(zegclip))
        assert found.settings()["text_embeddings"] == "a.npy"


def test_the_last_layer_of_mmsegmentation_takes_part_in_nothing(tmp_path, clip, zegclip):
    unused = {"decode_head.conv_seg.weight": torch.zeros(3, 16, 1, 1), "decode_head.conv_seg.bias": torch.zeros(3)}
    heads.load(tiny_heads.save_official(tmp_path / "a.pth", zegclip, **unused), **choices("zegclip", clip))


def test_every_trained_weight_has_a_published_name(clip):
    for name in OWN:
        made = tiny_heads.head(name, clip)
        assert own_weights(official_state(made), name).keys() | {"clip.model.logit_scale"} == made.state_dict().keys()
