"""Words to unit vectors, and the cache of those."""

import os
import sys
import warnings

import pytest
import tiny_clip
import torch
from safetensors.torch import load_file, save_file

from proxyclip.backbones.torchvision_shim import import_library
from proxyclip.backbones.weights import cache_folder
from proxyclip.errors import InputError
from proxyclip.text import PROMPTS_PER_BATCH, check_templates, default_templates, encode_prompts, encode_queries

QUERIES = ("cat", "a very long name of a thing", "sky")


@pytest.fixture
def clip():
    return tiny_clip.clip()


@pytest.fixture
def encoded(monkeypatch, clip):
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
    for query in QUERIES:
        prompts = [f"a {query}.", f"{query} and another {query}", query]
        each = clip.model.encode_text(clip.tokenizer(prompts))
        mean = (each / each.norm(dim=1, keepdim=True)).mean(0)
        expected.append(mean / mean.norm())
    embeddings = encode_queries(clip, QUERIES, templates)
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


@pytest.mark.parametrize(("given", "sentence"), [([], "no prompt templates"), (["a {}", "a cat"], "'a cat' has no {}")])
def test_unusable_templates(given, sentence):
    with pytest.raises(InputError, match=sentence):
        check_templates(given)


def test_braces_in_names_and_templates_are_text(clip):
    one = encode_queries(clip, ("a {0} b",), ("{x} {}",))
    assert torch.equal(one, encode_queries(clip, ("{x} a {0} b",), ("{}",)))


def test_order_and_company_do_not_matter(clip, encoded):
    prompts = [f"{'word ' * (i % 9)}number {i}" for i in range(PROMPTS_PER_BATCH + 50)]
    embeddings = encode_prompts(clip, prompts)
    assert encoded == [PROMPTS_PER_BATCH, 50]
    torch.testing.assert_close(encode_prompts(clip, prompts[::-1]).flip(0), embeddings, atol=1e-5, rtol=0)
    for index in (0, 8, 299):
        torch.testing.assert_close(encode_prompts(clip, [prompts[index]])[0], embeddings[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "shown"), [(1999, False), (2000, True)])
def test_a_progress_bar_for_many_prompts_only(clip, monkeypatch, capsys, count, shown):
    monkeypatch.setattr(clip, "tokenizer", lambda prompts: torch.ones(len(prompts), 3, dtype=torch.long))
    monkeypatch.setattr(clip, "encode_text", lambda tokens: torch.ones(len(tokens), 16))
    assert encode_prompts(clip, ["a"] * count).shape == (count, 16)
    assert ("encoding prompts" in capsys.readouterr().err) == shown


# The cache


def test_the_second_time_nothing_is_encoded(clip, monkeypatch):
    first = encode_queries(clip, QUERIES, ("a {}",))
    (file,) = cached()
    assert torch.equal(load_file(file)["embeddings"], first)

    def unexpected(tokens):
        raise AssertionError("encoded again")

    for again in (clip, tiny_clip.clip()):  # the same weights, in another model
        monkeypatch.setattr(again, "encode_text", unexpected)
        assert torch.equal(encode_queries(again, QUERIES, ("a {}",)), first)


def test_the_key_changes_with_what_matters(clip):
    encode_queries(clip, QUERIES, ("a {}",))
    other = tiny_clip.clip()
    with torch.no_grad():
        other.model.text_projection[0, 0] += 1e-3
    for number, (model, queries, templates) in enumerate(
        [
            (clip, QUERIES[::-1], ("a {}",)),
            (clip, QUERIES[:2], ("a {}",)),
            (clip, ("cat;", *QUERIES[1:]), ("a {}",)),
            (clip, QUERIES, ("a {}", "the {}")),
            (clip, QUERIES, ("the {}",)),
            (other, QUERIES, ("a {}",)),
            (tiny_clip.clip(quick_gelu=True), QUERIES, ("a {}",)),  # equal weights, another activation
            (tiny_clip.clip(text={"heads": 4}), QUERIES, ("a {}",)),  # equal weights, other heads
        ],
        start=2,
    ):
        encode_queries(model, queries, templates)
        assert len(cached()) == number


def test_image_weights_and_precision_do_not_change_the_key(clip):
    encode_queries(clip, QUERIES, ("a {}",))
    other = tiny_clip.clip()
    with torch.no_grad():
        other.visual.proj += 1
    other.visual.to(torch.bfloat16)
    encode_queries(other, QUERIES, ("a {}",))
    assert len(cached()) == 1


def spoil(file, how: str, embeddings):
    data = file.read_bytes()
    if how == "garbage":
        file.write_bytes(b"\x00garbage" * 50)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(data[:-7])
    elif how == "too few":
        save_file({"embeddings": embeddings[:2].contiguous()}, file)
    elif how == "too short":
        save_file({"embeddings": embeddings[:, :5].contiguous()}, file)
    elif how == "a single number":
        save_file({"embeddings": torch.tensor(1.0)}, file)
    elif how == "another name":
        save_file({"words": embeddings}, file)
    elif how == "NaN":
        save_file({"embeddings": embeddings.clone().index_fill_(0, torch.tensor([1]), float("nan"))}, file)


DAMAGES = ["garbage", "empty", "truncated", "too few", "too short", "a single number", "another name", "NaN"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_built_again(clip, encoded, how):
    first = encode_queries(clip, QUERIES, ("a {}",))
    (file,) = cached()
    spoil(file, how, first)
    with pytest.warns(UserWarning, match=f"text cache {file} is damaged .* built again"):
        again = encode_queries(clip, QUERIES, ("a {}",))
    assert torch.equal(again, first) and encoded == [3, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(encode_queries(clip, QUERIES, ("a {}",)), first)
    assert encoded == [3, 3]


def test_a_folder_that_cannot_be_written_to(clip, encoded, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="text embeddings cannot be cached .* computed again"):
        first = encode_queries(clip, QUERIES, ("a {}",))
    with pytest.warns(UserWarning, match="cannot be cached"):
        assert torch.equal(encode_queries(clip, QUERIES, ("a {}",)), first)
    assert encoded == [3, 3]


def test_no_half_written_file_stays(clip, monkeypatch):
    encode_queries(clip, QUERIES, ("a {}",))
    assert [file.suffix for file in cached()] == [".safetensors"]

    def refuse(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="cannot be cached .disk full"):
        encode_queries(clip, QUERIES, ("the {}",))
    assert len(cached()) == 1


def test_a_reader_never_meets_half_a_file(clip, monkeypatch):
    """The file gets its name only when all of it is written."""
    seen, original = [], os.replace

    def watched(source, target):
        seen.append((load_file(source)["embeddings"].shape, os.path.exists(target)))
        original(source, target)

    monkeypatch.setattr(os, "replace", watched)
    encode_queries(clip, QUERIES, ("a {}",))
    assert seen == [((3, 16), False)]


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
