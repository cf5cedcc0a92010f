"""Checkpoints of heads: what they hold, that they load exactly, and the sentence for each that cannot be used."""

import json
import resource
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tiny_cat_seg
import tiny_clip
import tiny_heads
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_heads import CLASSES, OWN, SEEN, TRAINING, scores

import heads
from heads.checkpoint import KEY, load_weights, read_metadata, save_checkpoint
from heads.clips import clip_fingerprint, load_clip
from proxyclip.errors import InputError, NotFound
from proxyclip.vocabulary import Vocabulary

FILES = "best.safetensors", "last.safetensors"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP."""
    return tiny_heads.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def original(tmp_path_factory, clip):
    return tiny_heads.saved(tmp_path_factory.mktemp("runs") / "run", clip=clip)


@pytest.fixture
def run(tmp_path, original):
    """The folder of a training run of ZegCLIP."""
    return shutil.copytree(original, str(tmp_path / "run"))


@pytest.fixture(scope="module")
def on_embedded_clip(tmp_path_factory):
    """The same on the embedded CLIP."""
    embedded = load_clip("mini")[0]
    return tiny_heads.saved(tmp_path_factory.mktemp("runs") / "run", clip=embedded, decoder_heads=4)


def header(file) -> dict:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata()


def rewritten(run, facts=None, **weights) -> str:
    """The last checkpoint with other facts or weights; None removes one."""
    file = f"{run}/last.safetensors"
    found = json.loads(header(file)[KEY]) | (facts or {})
    state = {name: value for name, value in (load_file(file) | weights).items() if value is not None}
    save_file(state, file, {KEY: json.dumps({name: value for name, value in found.items() if value != "absent"})})
    return file


@pytest.mark.parametrize("name", OWN)
def test_a_head_comes_back_as_it_was(tmp_path, clip, name):
    trained = tiny_heads.head(name, clip)
    save_checkpoint(tmp_path / "last.safetensors", trained, TRAINING)
    found = heads.load(tmp_path, clip=clip, device="cpu")
    assert found.method == trained.method and found.settings() == trained.settings()
    assert (found.classes, found.seen) == (CLASSES, SEEN) and not found.training
    assert torch.equal(scores(found), scores(trained))
    image = tiny_clip.photograph(45, 60)
    one, other = (model.segment(image, CLASSES) for model in (found, trained))
    assert np.array_equal(one.labels, other.labels) and np.array_equal(one.confidence, other.confidence)


@pytest.mark.parametrize("name", OWN)
def test_a_checkpoint_holds_what_was_trained_and_no_place_of_this_machine(tmp_path, clip, name):
    file = tiny_heads.embeddings_file(tmp_path / "words.npy", (5, 2, 16) if name == "otseg" else (5, 16))
    run = tiny_heads.saved(tmp_path / "run", name, clip, text_embeddings=file)
    trained = tiny_heads.head(name, clip)
    held = load_file(f"{run}/last.safetensors")
    assert held.keys() == trained.trained().keys() | {"stored_text"} and not any(k.startswith("clip.") for k in held)
    frozen = {f"clip.{entry}" for entry in trained.clip.state_dict()}
    assert held.keys() | frozen == trained.state_dict().keys() | {"stored_text"}
    written = header(f"{run}/last.safetensors")[KEY]
    assert "/" not in written
    facts = read_metadata(run)
    assert (facts.head, facts.clip, facts.classes, facts.seen, facts.training) == (
        name,
        "clip",
        CLASSES,
        SEEN,
        TRAINING,
    )
    assert facts.options["text_embeddings"] == "words.npy" and facts.options["crop"] == 32


def test_the_embedded_clip_has_one_name_and_one_fingerprint_everywhere(tmp_path):
    embedded, words = load_clip("mini")
    assert clip_fingerprint(embedded) == "319a7063a1d2329d"
    assert clip_fingerprint(load_clip("mini-clip")[0]) == "319a7063a1d2329d"
    made = tiny_heads.head("zegclip", embedded, decoder_heads=4)
    made.known_words = words
    save_checkpoint(tmp_path / "last.safetensors", made, {})
    facts = read_metadata(tmp_path)
    assert (facts.clip, facts.known_words) == ("mini-clip", words)
    assert heads.load(tmp_path).known_words == words


def test_the_fingerprint_is_of_all_that_both_towers_compute_with(clip):
    def changed(change):
        found = load_clip(clip)[0]
        with torch.no_grad():
            change(found)
        return clip_fingerprint(found)

    changes = {
        "nothing": lambda clip: None,
        "image": lambda clip: clip.visual.conv1.weight[0, 0, 0, 0].add_(0.01),
        "text": lambda clip: clip.model.ln_final.bias[0].add_(0.01),
        "heads": lambda clip: setattr(clip.visual.transformer.resblocks[0].attn, "num_heads", 1),
        "text heads": lambda clip: setattr(clip.model.transformer.resblocks[0].attn, "num_heads", 1),
        "activation": lambda clip: setattr(clip.visual.transformer.resblocks[0].mlp, "gelu", torch.nn.ReLU()),
        "name": lambda clip: setattr(clip, "name", "other"),
    }
    found = {name: changed(change) for name, change in changes.items()}
    assert found["name"] == found["nothing"] and len(set(found.values())) == len(changes) - 1


def test_the_best_checkpoint_is_preferred_and_a_file_can_be_named(tmp_path, clip):
    folder = tmp_path / "run"
    folder.mkdir()
    for seed, name in enumerate(FILES):
        save_checkpoint(folder / name, tiny_heads.head("zegclip", clip, seed=seed), {"iteration": seed})
    assert read_metadata(folder).training == {"iteration": 0}
    assert read_metadata(folder / FILES[1]).training == {"iteration": 1}
    best, last = (scores(heads.load(path, clip=clip)) for path in (folder, folder / FILES[1]))
    assert not torch.equal(best, last)
    (folder / FILES[0]).unlink()
    assert torch.equal(scores(heads.load(str(folder), clip=clip)), last)


def test_text_embeddings_are_kept_unless_others_are_asked_for(tmp_path, clip):
    files = [tiny_heads.embeddings_file(tmp_path / f"{seed}.npy", (5, 16), seed) for seed in range(2)]
    run = tiny_heads.saved(tmp_path / "run", clip=clip, text_embeddings=files[0])
    rows = [torch.from_numpy(np.load(file)) for file in files]
    (tmp_path / "0.npy").unlink()

    def text(**options):
        model = heads.load(run, clip=clip, **options)
        return model.encode_classes(Vocabulary.parse(CLASSES[::-1])), model.settings()["text_embeddings"]

    found, name = text()
    assert torch.equal(found, rows[0].flip(0)) and name == "0.npy"
    found, name = text(text_embeddings=files[1])
    assert torch.equal(found, rows[1].flip(0)) and name == "1.npy"
    found, name = text(templates=["a {}."])
    assert not torch.equal(found, rows[0].flip(0)) and name is None


CHANGES = {"short_side": 48, "crop": 24, "stride": 8, "seen_penalty": 0.3, "templates": ("one {}",)}


@pytest.mark.parametrize("name", CHANGES)
def test_what_may_change_after_training(run, clip, name):
    model = heads.load(run, clip=clip, **{name: CHANGES[name]})
    expected = len(CHANGES[name]) if name == "templates" else CHANGES[name]
    assert model.settings()[name] == expected and getattr(model.options, name) == CHANGES[name]
    if name == "seen_penalty":
        assert dict(model.label_rule.subtract) == dict.fromkeys(SEEN, 0.3)


@pytest.mark.parametrize("name", OWN)
def test_what_is_part_of_the_training_may_not(tmp_path, clip, name):
    run = tiny_heads.saved(tmp_path / "run", name, clip)
    for entry in fields(heads.find_head(name).Options):
        if entry.name not in heads.find_head(name).Head.CHANGEABLE:
            with pytest.raises(InputError, match=f"^{entry.name} is part of the training of .* only short_side, crop"):
                heads.plan(run, clip=clip, **{entry.name: 1})


@pytest.mark.parametrize(("classes", "penalty"), [
    (CLASSES, 0.1), (CLASSES[::-1], 0.1), (CLASSES[:4], 0.0), ((*CLASSES, "sea"), 0.0), (None, 0.1),
])  # fmt: skip
def test_nothing_is_subtracted_on_another_benchmark(run, clip, classes, penalty):
    assert heads.plan(run, clip=clip, benchmark=classes).options.seen_penalty == penalty
    assert heads.plan(run, clip=clip, benchmark=classes, seen_penalty=0.2).options.seen_penalty == 0.2


def refused(path, words, **choices) -> str:
    with pytest.raises((InputError, NotFound), match=words) as found:
        heads.plan(path, **choices)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_paths_that_are_no_checkpoints(tmp_path, clip):
    refused(tmp_path / "run", "run does not exist$")
    refused(tmp_path, "has no checkpoint: neither best.safetensors nor last.safetensors is there")
    (tmp_path / "last.safetensors").mkdir()
    refused(tmp_path, "has no checkpoint")
    other = tmp_path / "clip.safetensors"
    save_file({"visual.proj": torch.zeros(2)}, other)
    refused(other, "is of no known kind")
    with pytest.raises(InputError, match="does not name a head"):
        read_metadata(other)
    refused(tmp_path / "a", "a does not exist", checkpoint_clip=None)
    refused(tmp_path, "missing.pt does not exist", checkpoint_clip="missing.pt")
    refused(3, "checkpoint must be a string or Path, not 3")


@pytest.mark.parametrize("keep", [0, 4, 200, 0.5, 0.999])
def test_a_truncated_file(run, keep):
    file = f"{run}/last.safetensors"
    with open(file, "rb") as opened:
        data = opened.read()
    with open(file, "wb") as opened:
        opened.write(data[: int(keep if keep > 1 else keep * len(data))])
    refused(run, "cannot be read .*: damaged, or not a .safetensors file")


@pytest.mark.parametrize(("facts", "words"), [
    ({"head": "zegclp"}, "unknown head 'zegclp'; did you mean zegclip"),
    ({"head": "absent"}, "its header is damaged"),
    ({"classes": "sky"}, "its header is damaged .*classes must be a tuple of strings, not 'sky'"),
    ({"seen": ["sky", "sea"]}, "its seen names sea are not among its classes"),
    ({"classes": 3}, "its header is damaged"),
    ({"options": []}, "its header is damaged .*options must be"),
    ({"options": {"prompt": 3}}, "no option 'prompt'; did you mean prompts"),
    ({"mean": [0.5, 0.5, 0.5]}, "another normalisation"),
    ({"head": "otseg"}, "does not match the model's architecture"),
    ({"clip": "vit-base"}, "was trained on the CLIP vit-base, which has no place here"),
    ({"clip": "ViT-B-16:mine.pt"}, "was trained on the CLIP ViT-B-16:mine.pt, which has no place here"),
])  # fmt: skip
def test_facts_that_are_wrong(tmp_path, on_embedded_clip, facts, words):
    run = shutil.copytree(on_embedded_clip, tmp_path / "run")
    heads.plan(run)
    rewritten(run, facts)
    refused(run, words)


@pytest.mark.parametrize(("weights", "words"), [
    ({"encoder.prompts": None}, "last.safetensors lacks encoder.prompts"),
    ({"encoder.more": torch.zeros(1)}, r"1 unexpected \(encoder.more\)"),
    ({"clip.model.visual.proj": torch.zeros(1)}, r"1 unexpected \(clip.model.visual.proj\)"),
    ({"encoder.norm.weight": torch.zeros(3)}, r"1 of another shape \(encoder.norm.weight is \(3,\), not \(128,\)\)"),
    ({"encoder.norm.weight": torch.full((128,), torch.nan)}, "encoder.norm.weight contain values that are not finite"),
    ({"encoder.norm.weight": torch.zeros(128, dtype=torch.int64)}, "weights must be floating-point numbers"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_found_before_clip_is_loaded(tmp_path, on_embedded_clip, weights, words):
    run = shutil.copytree(on_embedded_clip, tmp_path / "run")
    rewritten(run, **weights)
    complaint = refused(run, words)
    assert complaint.startswith(f"checkpoint {run}/last.safetensors ")


@pytest.mark.parametrize(("name", "option"), [
    ("zegclip", "decoder_layers"), ("otseg", "prompts"), ("cascade_clip", "decoder_layers"), ("cat_seg", "layers"),
    ("cat_seg", "hidden"),
])  # fmt: skip
def test_sizes_in_a_header_are_compared_before_anything_is_built(tmp_path, clip, monkeypatch, name, option):
    """A million layers take minutes and gigabytes."""
    made = tiny_cat_seg.head(load_clip(clip)[0]) if name == "cat_seg" else tiny_heads.head(name, clip)
    save_checkpoint(tmp_path / "last.safetensors", made, TRAINING)
    rewritten(
        tmp_path, {"options": json.loads(header(tmp_path / "last.safetensors")[KEY])["options"] | {option: 10**6}}
    )
    monkeypatch.setattr(heads.find_head(name).Head, "__init__", lambda *_, **__: pytest.fail("built"))
    words = f"^{option} is 1000000, but checkpoint .*last.safetensors was trained with {getattr(made.options, option)}$"
    with pytest.raises(InputError, match=words):
        heads.load(tmp_path, clip=clip)


def test_half_precision_is_read_as_float32(tmp_path, run, clip):
    state = load_file(f"{run}/last.safetensors")
    rewritten(run, **{name: value.bfloat16() for name, value in state.items()})
    found = heads.load(run, clip=clip, device="cpu")
    for name, value in found.trained().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[name].bfloat16().float()), name


def test_another_clip_is_named_beside_the_right_one(tmp_path, run, clip):
    other = tiny_clip.save_folder(tmp_path / "other", vision={"layers": 4, "width": 48})
    state = tiny_clip.open_clip_model(**tiny_heads.LAYERS).state_dict()
    state["logit_scale"] += 1
    same_shape = tiny_clip.save_folder(tmp_path / "retrained", state, **tiny_heads.LAYERS)
    own = clip_fingerprint(load_clip(clip)[0])
    for folder, name in ((other, "other"), (same_shape, "retrained")):
        planned = heads.plan(run, clip=folder)
        with pytest.raises(InputError, match=f"trained on another CLIP: clip with fingerprint {own}, but {name} has "):
            planned.build()
    heads.load(run, clip=tiny_heads.clip_folder(tmp_path / "elsewhere"))  # the same weights in another place


def test_a_clip_given_as_a_file(tmp_path, run, clip):
    """A recorded folder name means nothing elsewhere; the file of an architecture's weights does."""
    refused(run, "was trained on the CLIP clip, which has no place here: name its folder with clip")
    file = f"{clip}/open_clip_model.safetensors"
    assert torch.equal(scores(heads.load(run, clip=clip, checkpoint_clip=file)), scores(heads.load(run, clip=clip)))


@pytest.mark.parametrize(("choices", "words"), [
    ({"head": "otseg"}, "is of head zegclip, not otseg"),
    ({"head": "zegclp"}, "unknown head 'zegclp'"),
    ({"classes": CLASSES[1:]}, r"other classes \(5\) than those given \(4\): only in the checkpoint: sky$"),
    ({"classes": CLASSES[::-1]}, r"other classes \(5\) than those given \(5\): their order differs$"),
    ({"seen": ("sky", "sea")}, r"other seen classes \(3\).*only in the checkpoint: car, tree; only given here: sea$"),
    ({"seen": "sky"}, "seen must be a list of names"),
    ({"crop": 8, "stride": 16}, "stride 16 above crop 8"),
    ({"crop": "8"}, "crop must be a whole number, not '8'"),
    ({"beta": 1.2}, "head zegclip has no option 'beta'"),
    ({"templates": ["sky"]}, "has no {} for the name"),
    ({"device": "gpu"}, "unknown device 'gpu'"),
    ({"precision": "fp8"}, "unknown precision 'fp8'"),
    ({"text_embeddings": "none.npy"}, "text embeddings none.npy do not exist"),
])  # fmt: skip
def test_choices_that_are_wrong(run, clip, choices, words):
    refused(run, words, clip=clip, **choices)


def test_what_is_known_from_elsewhere_may_be_said_again(run, clip):
    heads.plan(run, clip=clip, head="zegclip", classes=list(CLASSES), seen=SEEN, assumed={"prompts": 99})


@pytest.mark.parametrize(("shape", "words"), [
    ((4, 16), r"hold \(4, 16\) float32, but \(5, 16\)"), ((5, 8), r"hold \(5, 8\)"), ((5, 2, 16), r"hold \(5, 2, 16\)"),
])  # fmt: skip
def test_text_embeddings_of_the_wrong_size_are_refused_before_anything_is_loaded(tmp_path, run, clip, shape, words):
    refused(run, words, clip=clip, text_embeddings=tiny_heads.embeddings_file(tmp_path / "a.npy", shape))


def test_a_full_disk_leaves_the_last_good_checkpoint(run, clip):
    file = f"{run}/last.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write checkpoint .*last.safetensors \(File too large\)"):
            save_checkpoint(file, tiny_heads.head("zegclip", clip, seed=1), {"iteration": 8})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_metadata(run).training == TRAINING
    assert torch.equal(scores(heads.load(run, clip=clip)), scores(tiny_heads.head("zegclip", clip)))
    assert [path.name for path in Path(run).iterdir()] == ["last.safetensors"]


def test_a_head_can_start_from_another_ones_weights(tmp_path, run, clip):
    file = tiny_heads.embeddings_file(tmp_path / "a.npy", (2, 16))
    start = tiny_heads.head("zegclip", clip, ("sea", "sand"), ("sea",), seed=1, text_embeddings=file)
    load_weights(start, heads.open_checkpoint(run))
    other = tiny_heads.head("zegclip", clip)
    for name, value in other.trained().items():
        assert torch.equal(start.state_dict()[name], value), name
    assert start.classes == ("sea", "sand") and start.stored_text.shape == (2, 16)


@pytest.mark.parametrize(("make", "words"), [
    (lambda clip: tiny_heads.head("otseg", clip), "is of head zegclip, not otseg"),
    (lambda clip: tiny_heads.head("zegclip", clip, prompts=4), r"of another shape \(encoder.prompts"),
    (lambda clip: tiny_heads.head("zegclip", tiny_clip.clip()), "trained on another CLIP: clip .* but tiny has"),
])  # fmt: skip
def test_a_head_that_cannot_start_from_it_stays_as_it_is(run, clip, make, words):
    start = make(clip)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    with pytest.raises(InputError, match=words):
        load_weights(start, heads.open_checkpoint(run))
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())


def test_names_of_heads():
    assert heads.head_names() == ["cascade_clip", "cat_seg", "otseg", "zegclip"]
    assert heads.find_head("otseg").Head.method == "OTSeg"
    for name in ("otsg", "head", "mask_decoder"):
        with pytest.raises(InputError, match=f"unknown head '{name}'.* Known: cascade_clip, cat_seg, otseg, zegclip"):
            heads.find_head(name)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        heads.lod  # noqa: B018
