"""Class names to unit vectors, and the caches of those in memory and on disk."""

import os
import sys
import threading
import warnings

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from proxyclip import text
from proxyclip.backbones.checkpoints import cache_folder, import_library
from proxyclip.errors import InputError
from proxyclip.text import check_templates, default_templates, encode_names, encode_prompts

NAMES = ("cat", "a very long name of a thing", "sky")


@pytest.fixture
def clip():
    return tiny_clip.clip().eval()


@pytest.fixture
def encoded(monkeypatch, clip):
    return counted(monkeypatch, clip)


def counted(monkeypatch, clip) -> list[int]:
    """How many prompts each call of the encoder had."""
    counts, original = [], clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda tokens: counts.append(len(tokens)) or original(tokens))
    return counts


def cached():
    return sorted((cache_folder() / "text").iterdir()) if (cache_folder() / "text").exists() else []


# Embeddings


def test_each_template_is_filled_in_encoded_and_averaged(clip):
    templates = ("a {}.", "{} and another {}", "{}")
    expected = []
    for name in NAMES:
        prompts = [f"a {name}.", f"{name} and another {name}", name]
        each = clip.model.encode_text(clip.tokenizer(prompts))
        mean = (each / each.norm(dim=1, keepdim=True)).mean(0)
        expected.append(mean / mean.norm())
    embeddings = encode_names(clip, NAMES, templates)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, torch.stack(expected), atol=1e-6, rtol=0)


def test_default_templates_are_clip_s_eighty():
    templates = default_templates()
    assert len(set(templates)) == 80
    assert templates[0] == "a bad photo of a {}."
    assert [t.replace("{}", "x") for t in templates] == [
        fill("x") for fill in import_library("open_clip").OPENAI_IMAGENET_TEMPLATES
    ]


@pytest.mark.parametrize(
    ("given", "checked"),
    [("a {}", ("a {}",)), (["a {}", "the {}"], ("a {}", "the {}")), ((t for t in ("{}",)), ("{}",))],
    ids=["text", "list", "generator"],
)
def test_own_templates(given, checked):
    assert check_templates(given) == checked


@pytest.mark.parametrize(("given", "sentence"), [([], "templates is empty"), (["a {}", "a cat"], "'a cat' has no {}")])
def test_unusable_templates(given, sentence):
    with pytest.raises(InputError, match=sentence):
        check_templates(given)


def test_braces_in_names_and_templates_are_text(clip):
    one = encode_names(clip, ("a {0} b",), ("{x} {}",))
    assert torch.equal(one, encode_names(clip, ("{x} a {0} b",), ("{}",)))


def test_without_averaging_each_prompt_has_an_embedding(clip):
    templates = ("a {}.", "{}", "a photo of the {}")
    each = encode_names(clip, NAMES, templates, average=False)  # (Q, P, E)
    assert each.shape == (3, 3, 16)
    for column, template in enumerate(templates):
        torch.testing.assert_close(each[:, column], encode_names(clip, NAMES, (template,)), atol=1e-6, rtol=0)
    torch.testing.assert_close(F.normalize(each.mean(1), dim=-1), encode_names(clip, NAMES, templates))


@pytest.mark.parametrize("average", [True, False])
def test_a_name_depends_on_itself_alone(clip, monkeypatch, tmp_path, average):
    """Bit for bit the same alone, first, last, and among others with longer and shorter prompts."""
    templates = default_templates()
    names = [f"{'word ' * (i % 9)}number {i}" for i in range(30)]
    together = encode_names(clip, names, templates, average)
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "reversed"))
    assert torch.equal(encode_names(tiny_clip.clip().eval(), names[::-1], templates, average).flip(0), together)
    for index in (0, 8, 29):
        monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / str(index)))
        alone = encode_names(tiny_clip.clip().eval(), [names[index]], templates, average)
        assert torch.equal(alone[0], together[index])


def test_prompts_keep_their_order(clip):
    prompts = [f"{'word ' * (i % 9)}number {i}" for i in range(100)]
    embeddings = encode_prompts(clip, prompts)
    for index in (0, 8, 99):
        torch.testing.assert_close(encode_prompts(clip, [prompts[index]])[0], embeddings[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "visible"), [(24, False), (25, True)])
def test_a_progress_bar_for_many_prompts_only(clip, capsys, count, visible):
    encode_names(clip, [f"thing {i}" for i in range(count)], default_templates())
    assert ("encoding class names" in capsys.readouterr().err) == visible


@pytest.mark.parametrize(("names", "sentence"), [("sky", r"write \['sky'\]"), ([], "empty"), ([3], "entry 0 is 3")])
def test_unusable_names(clip, names, sentence):
    with pytest.raises(InputError, match=sentence):
        encode_names(clip, names, ("{}",))


def test_a_name_that_is_cut_brings_a_warning(clip):
    with pytest.warns(UserWarning, match="'long long.*…' fills all 77 tokens .* choose a shorter name"):
        encode_names(clip, ["long " * 80, "short"], ("a {}",))
    original, lengths = clip.tokenizer, []
    clip.tokenizer = lambda texts: lengths.extend(map(len, texts)) or original(texts)
    with pytest.warns(UserWarning, match="fills all 77 tokens"):
        encode_names(clip, ["qzx" * 4000], ("a {}",))
    assert max(lengths) == 1002  # the tokenizer would need seconds for all of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_names(clip, ["word " * 70], ("{}",))


# What is cached


def test_editing_one_name_encodes_one(clip, encoded):
    first = encode_names(clip, NAMES, ("a {}", "the {}"))
    assert encoded == [2, 2, 2]
    edited = encode_names(clip, ("cat", "dog", "sky"), ("a {}", "the {}"))
    assert encoded == [2, 2, 2, 2]
    assert torch.equal(edited[[0, 2]], first[[0, 2]])
    assert torch.equal(encode_names(clip, NAMES[::-1], ("a {}", "the {}")), first.flip(0))
    assert encoded == [2, 2, 2, 2]


def test_another_process_finds_every_name_on_disk(clip, monkeypatch):
    """Another model with the same weights knows nothing but the disk."""
    first = encode_names(clip, NAMES, ("a {}",))
    encode_names(clip, ("dog",), ("a {}",))
    assert len(cached()) == 1
    again = tiny_clip.clip().eval()
    counts = counted(monkeypatch, again)
    assert torch.equal(encode_names(again, NAMES, ("a {}",)), first)
    encode_names(again, ("dog", "cat"), ("a {}",))
    assert counts == []


def test_the_second_call_reads_neither_words_nor_disk(clip, monkeypatch):
    first = encode_names(clip, NAMES, ("a {}",))

    def unexpected(*args):
        raise AssertionError("not from memory")

    for owner, name in (
        (clip, "tokenizer"),
        (clip, "encode_text"),
        (text, "read_rows"),
        (text, "add_rows"),
    ):
        monkeypatch.setattr(owner, name, unexpected)
    assert torch.equal(encode_names(clip, NAMES, ("a {}",)), first)
    assert torch.equal(encode_names(clip, NAMES[1:], ["a {}"]), first[1:])


def test_what_a_row_depends_on(clip, monkeypatch):
    """Each of these must encode: other words, other templates, other weights, another tokenizer."""
    encode_names(clip, NAMES, ("a {}", "the {}"))
    other = tiny_clip.clip().eval()
    with torch.no_grad():
        other.model.text_projection[0, 0] += 1e-3
    upper = tiny_clip.clip().eval()
    upper.tokenizer = lambda texts: tiny_clip.tokenizer()([text.replace("cat", "dog") for text in texts])
    for model, names, templates, average in [
        (clip, ("cat;",), ("a {}", "the {}"), True),
        (clip, ("CAT",), ("a {}", "the {}"), True),
        (clip, ("cat",), ("the {}", "a {}"), True),
        (clip, ("cat",), ("a {}",), True),
        (clip, ("cat",), ("a {}", "the {}"), False),
        (other, ("cat",), ("a {}", "the {}"), True),
        (upper, ("cat",), ("a {}", "the {}"), True),
        (
            tiny_clip.clip(quick_gelu=True).eval(),
            ("cat",),
            ("a {}", "the {}"),
            True,
        ),  # another activation
        (tiny_clip.clip(text={"heads": 4}).eval(), ("cat",), ("a {}", "the {}"), True),  # other heads
    ]:
        counts = counted(monkeypatch, model)
        encode_names(model, names, templates, average)
        assert counts == [len(templates)]


def test_templates_that_are_read_alike_fill_in_differently(clip, encoded):
    """CLIP reads "{}s" and "{} s" as the same tokens, "cats" and "cat s" as others."""
    assert torch.equal(clip.tokenizer("{}s"), clip.tokenizer("{} s"))
    assert not torch.equal(encode_names(clip, ("cat",), ("{}s",)), encode_names(clip, ("cat",), ("{} s",)))
    assert encoded == [1, 1] and len(cached()) == 2


def test_image_weights_and_precision_do_not_matter(clip, monkeypatch):
    first = encode_names(clip, NAMES, ("a {}",))
    other = tiny_clip.clip().eval()
    with torch.no_grad():
        other.visual.proj += 1
    other.visual.to(torch.bfloat16)
    counts = counted(monkeypatch, other)
    assert torch.equal(encode_names(other, NAMES, ("a {}",)), first) and counts == []


# Memory


@pytest.mark.parametrize("how", ["step", "load", "replace", "cast"])
def test_changed_weights_are_noticed(clip, how):
    first = encode_names(clip, NAMES, ("a {}",))
    changed = {name: value + 0.1 for name, value in clip.model.state_dict().items() if "mask" not in name}
    if how == "step":
        with torch.no_grad():
            clip.model.transformer.resblocks[0].mlp.c_fc.weight += 0.1
    elif how == "load":
        clip.model.load_state_dict(changed)
    elif how == "replace":
        clip.model.text_projection = torch.nn.Parameter(changed["text_projection"] * torch.rand(16))
    else:
        clip.model.transformer.half().float()
    expected = encode_names(tiny_copy(clip), NAMES, ("a {}",))
    assert torch.equal(encode_names(clip, NAMES, ("a {}",)), expected)
    assert not torch.equal(expected, first)


def tiny_copy(clip):
    """The same weights in another model, which has no memory."""
    copy = tiny_clip.clip().eval()
    copy.model.load_state_dict(clip.model.state_dict())
    return copy


def test_weights_of_inference_mode_are_watched():
    """PyTorch does not count changes of such weights."""
    with torch.inference_mode():
        clip = tiny_clip.clip().eval()
        first = encode_names(clip, NAMES, ("a {}",))
        clip.model.text_projection.mul_(torch.rand(16))
        assert not torch.equal(encode_names(clip, NAMES, ("a {}",)), first)
    assert not first.is_inference()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_result_changed_in_place_is_computed_again(clip, mode):
    first = encode_names(clip, NAMES, ("a {}",))
    before = first.clone()
    with mode():
        first.mul_(2)
    assert torch.equal(encode_names(clip, NAMES, ("a {}",)), before)


def test_results_of_inference_mode_serve_a_training_step(clip):
    with torch.inference_mode():
        embeddings = encode_names(clip, NAMES, ("a {}",))
    image = torch.rand(5, 16, requires_grad=True)
    (image @ encode_names(clip, NAMES, ("a {}",)).T).sum().backward()
    torch.testing.assert_close(image.grad[0], embeddings.sum(0))


def test_autocast_around_does_not_round(clip, monkeypatch, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        inside = encode_names(clip, NAMES, ("a {}",))
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "another"))
    assert torch.equal(inside, encode_names(tiny_clip.clip().eval(), NAMES, ("a {}",)))
    assert inside.dtype == torch.float32


def test_a_text_tower_in_training_is_not_cached(clip):
    before = encode_names(clip, NAMES, ("a {}",))
    (file,) = cached()
    written = file.read_bytes()
    clip.requires_grad_(True).train()
    for _ in range(2):
        embeddings = encode_names(clip, (*NAMES, "dog"), ("a {}",))
        clip.zero_grad()
        embeddings[:, 0].sum().backward()
        assert clip.model.token_embedding.weight.grad.abs().sum() > 0
    torch.testing.assert_close(embeddings[:3].detach(), before, atol=1e-6, rtol=1e-5)  # encoded in one batch
    clip.model.text_projection.data.mul_(torch.rand(16))  # PyTorch does not count a change through .data
    clip.eval()
    assert file.read_bytes() == written and len(cached()) == 1
    assert not torch.equal(encode_names(clip, NAMES, ("a {}",)), before)


@pytest.mark.parametrize(("trainable", "training"), [(False, True), (True, False)])
def test_a_text_tower_that_is_frozen_or_evaluated_is_cached(clip, encoded, trainable, training):
    clip.requires_grad_(trainable).train(training)
    assert torch.equal(encode_names(clip, NAMES, ("a {}",)), encode_names(clip, NAMES, ("a {}",)))
    assert encoded == [1, 1, 1]


# Disk


def spoil(file, how: str):
    data, held = file.read_bytes(), load_file(file)
    keys, embeddings = held["keys"], held["embeddings"]
    if how == "garbage":
        file.write_bytes(b"\x00garbage" * 50)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(data[:-7])
    elif how == "too few":
        save_file({"keys": keys, "embeddings": embeddings[:2].contiguous()}, file)
    elif how == "too short":
        save_file({"keys": keys, "embeddings": embeddings[:, :5].contiguous()}, file)
    elif how == "a single number":
        save_file({"keys": keys, "embeddings": torch.tensor(1.0)}, file)
    elif how == "short keys":
        save_file({"keys": keys[:, :7].contiguous(), "embeddings": embeddings}, file)
    elif how == "another type":
        save_file({"keys": keys, "embeddings": embeddings.half()}, file)
    elif how == "another name":
        save_file({"words": embeddings}, file)
    elif how == "NaN":
        embeddings[1, 1] = float("nan")
        save_file({"keys": keys, "embeddings": embeddings}, file)


DAMAGES = ["garbage", "empty", "truncated", "too few", "too short", "a single number", "short keys", "another type"]


@pytest.mark.parametrize("how", [*DAMAGES, "another name", "NaN"])
def test_a_damaged_file_is_built_again(clip, monkeypatch, how):
    first = encode_names(clip, NAMES, ("a {}",))
    (file,) = cached()
    spoil(file, how)
    again = tiny_clip.clip().eval()
    counts = counted(monkeypatch, again)
    with pytest.warns(UserWarning, match=f"text cache {file} is corrupted .* rebuilding it") as caught:
        assert torch.equal(encode_names(again, NAMES, ("a {}",)), first)
    assert counts == [1, 1, 1] and len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last = tiny_clip.clip().eval()
        monkeypatch.setattr(last, "encode_text", None)
        assert torch.equal(encode_names(last, NAMES, ("a {}",)), first)


def test_a_folder_that_cannot_be_written_to_brings_one_warning(encoded, clip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = encode_names(clip, NAMES, ("a {}",))
        assert torch.equal(encode_names(clip, NAMES, ("a {}",)), first)
        encode_names(clip, ("dog",), ("a {}",))
    assert sum("text embeddings cannot be cached" in str(warning.message) for warning in caught) == 1
    assert encoded == [1, 1, 1, 1]


def test_no_half_written_file_stays(clip, monkeypatch):
    encode_names(clip, NAMES, ("a {}",))
    assert [file.suffix for file in cached()] == [".safetensors"]

    def refuse(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="cannot be cached .*disk full"):
        encode_names(clip, NAMES, ("the {}",))
    assert len(cached()) == 1


def test_a_reader_never_meets_half_a_file(clip, monkeypatch):
    """The file gets its name only when all of it is written."""
    seen, original = [], os.replace

    def watched(source, target):
        seen.append((load_file(source)["embeddings"].shape, os.path.exists(target)))
        original(source, target)

    monkeypatch.setattr(os, "replace", watched)
    encode_names(clip, NAMES, ("a {}",))
    assert seen == [((3, 16), False)]


def test_an_interrupted_run_saves_what_it_encoded(clip, monkeypatch):
    original = clip.encode_text

    def stop(tokens):
        if counts:
            raise KeyboardInterrupt
        counts.append(len(tokens))
        return original(tokens)

    counts = []
    monkeypatch.setattr(clip, "encode_text", stop)
    with pytest.raises(KeyboardInterrupt):
        encode_names(clip, NAMES, ("a {}",))
    again = tiny_clip.clip().eval()
    counts = counted(monkeypatch, again)
    encode_names(again, NAMES, ("a {}",))
    assert counts == [1, 1]


def test_rows_of_several_writers_are_joined(tmp_path):
    """One that read the file before another wrote to it does not remove the other's rows."""
    file = tmp_path / "text" / "rows.safetensors"
    rows = {bytes([i]) * 16: torch.full((4,), float(i)) for i in range(40)}
    threads = [threading.Thread(target=lambda key=key: text.add_rows(file, {key: rows[key]})) for key in rows]
    for thread in threads[:8]:  # at the same time: rows may be lost, the file stays whole
        thread.start()
    for thread in threads[:8]:
        thread.join()
    assert 0 < len(text.read_rows(file, (4,))) <= 8
    for key, row in rows.items():
        text.add_rows(file, {key: row})
    held = text.read_rows(file, (4,))
    assert held.keys() == rows.keys() and all(torch.equal(held[key], rows[key]) for key in rows)


def test_the_file_is_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "FILE_BYTES", 5 * 16)
    file = tmp_path / "rows.safetensors"
    for i in range(9):
        text.add_rows(file, {bytes([i]) * 16: torch.zeros(4)})
    assert [key[0] for key in text.read_rows(file, (4,))] == [4, 5, 6, 7, 8]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PROXYCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "proxyclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform != "win32":
        assert cache_folder() == tmp_path / ".cache" / "proxyclip"
