"""Class names to unit vectors, and the caches of those in memory and on disk."""

import os
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
TWO = ("a {}.", "a long photo of the {}.")


@pytest.fixture
def clip():
    return tiny_clip.clip().eval()


def counted(clip) -> list[int]:
    """How many prompts each call of the encoder has from now on."""
    counts, original = [], clip.encode_text
    clip.encode_text = lambda tokens: counts.append(len(tokens)) or original(tokens)
    return counts


def another_process():
    """The same weights, with nothing in memory, and how many prompts each call of its encoder has."""
    clip = tiny_clip.clip().eval()
    return clip, counted(clip)


def files():
    return sorted((cache_folder() / "text").iterdir())


# Embeddings


@pytest.mark.parametrize("average", [True, False])
def test_each_template_is_filled_in_encoded_and_averaged(clip, average):
    expected = []
    for name in NAMES:
        prompts = [f"a {name}.", f"{name} and {{x}} another {name}", name]
        each = F.normalize(clip.model.encode_text(clip.tokenizer(prompts)), dim=1)
        expected.append(F.normalize(each.mean(0), dim=0) if average else each)
    embeddings = encode_names(clip, NAMES, ("a {}.", "{} and {x} another {}", "{}"), average)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, torch.stack(expected), atol=1e-6, rtol=0)
    assert torch.equal(encode_names(clip, ("a {0} b",), ("{x} {}",)), encode_names(clip, ("{x} a {0} b",), ("{}",)))


def test_default_templates_are_clip_s_eighty():
    templates = default_templates()
    assert len(set(templates)) == 80 and templates[0] == "a bad photo of a {}."
    fills = import_library("open_clip").OPENAI_IMAGENET_TEMPLATES
    assert [template.replace("{}", "x") for template in templates] == [fill("x") for fill in fills]


@pytest.mark.parametrize("templates", ["a {}", ["a {}"], (template for template in ("a {}",))])
def test_forms_of_templates(templates):
    assert check_templates(templates) == ("a {}",)


@pytest.mark.parametrize(
    ("names", "templates", "sentence"),
    [
        ("sky", ("{}",), r"write \['sky'\]"),
        ([], ("{}",), "names is an empty list"),
        ([3], ("{}",), "entry 0 is 3"),
        (["sky"], [], "templates is empty"),
        (["sky"], ["a {}", "a cat"], "'a cat' has no {}"),
    ],
)
def test_names_and_templates_that_cannot_be(clip, names, templates, sentence):
    with pytest.raises(InputError, match=sentence):
        encode_names(clip, names, templates)


@pytest.mark.parametrize("average", [True, False])
def test_a_name_depends_on_itself_alone(monkeypatch, tmp_path, average):
    """Bit for bit the same alone, first, last, and among others with longer and shorter prompts."""
    names, templates = [f"{'word ' * (3 * i % 10)}number {i}" for i in range(6)], default_templates()

    def encoded(order: list[int]):
        monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / str(order)))
        return encode_names(tiny_clip.clip().eval(), [names[i] for i in order], templates, average)

    together = encoded([0, 1, 2, 3, 4, 5])
    assert torch.equal(encoded([5, 4, 3, 2, 1, 0]).flip(0), together)
    assert torch.equal(encoded([3])[0], together[3])


def test_prompts_keep_their_order(clip):
    prompts = [f"{'word ' * (i % 9)}number {i}" for i in range(text.PROMPTS_PER_BATCH + 20)]
    embeddings = encode_prompts(clip, prompts)
    for index in (0, 8, -1):
        torch.testing.assert_close(encode_prompts(clip, [prompts[index]])[0], embeddings[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "visible"), [(4, False), (5, True)])
def test_a_progress_bar_for_many_prompts_only(clip, capsys, monkeypatch, count, visible):
    monkeypatch.setattr(text, "MANY_PROMPTS", 10)
    encode_names(clip, [f"thing {i}" for i in range(count)], TWO)
    assert ("encoding class names" in capsys.readouterr().err) == visible


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


def test_each_name_is_encoded_once_and_found_in_memory_and_on_disk(clip, monkeypatch):
    counts = counted(clip)
    first = encode_names(clip, NAMES, TWO)
    edited = encode_names(clip, ("cat", "dog", "sky"), TWO)
    assert counts == [2, 2, 2, 2] and torch.equal(edited[[0, 2]], first[[0, 2]])
    again, counts = another_process()
    assert torch.equal(encode_names(again, NAMES, list(TWO)), first) and len(files()) == 1
    for owner, name in ((again, "tokenizer"), (text, "read_rows"), (text, "add_rows")):
        monkeypatch.setattr(owner, name, None)
    assert torch.equal(encode_names(again, NAMES[::-1], TWO), first.flip(0)) and counts == []


def changed(how: str):
    """A model with the same weights but for one thing."""
    if how == "activation":
        return tiny_clip.clip(quick_gelu=True).eval()
    if how == "heads":
        return tiny_clip.clip(text={"heads": 4}).eval()
    clip = tiny_clip.clip().eval()
    if how == "weights":
        clip.model.text_projection.data[0, 0] += 1e-3
    else:  # what the tokenizer reads in another way
        clip.tokenizer = lambda texts: tiny_clip.tokenizer()([prompt.replace(*how.split(" -> ")) for prompt in texts])
    return clip


@pytest.mark.parametrize(
    ("model", "name", "templates", "average"),
    [
        ("", "cat;", TWO, True),
        ("", "CAT", TWO, True),
        ("", "cat", TWO[::-1], True),
        ("", "cat", TWO[:1], True),
        ("", "cat", ("a{}.", TWO[1]), True),  # read alike without a name, but not with one
        ("", "cat", TWO, False),
        ("weights", "cat", TWO, True),
        ("activation", "cat", TWO, True),
        ("heads", "cat", TWO, True),
        ("cat -> dog", "cat", TWO, True),
        ("a {}. -> no {}.", "cat", TWO, True),  # the longest template, which the keys of names hold, is read alike
    ],
)
def test_what_an_embedding_depends_on(clip, model, name, templates, average):
    first = encode_names(clip, NAMES, TWO)
    other = changed(model) if model else clip
    counts = counted(other)
    result = encode_names(other, (name,), templates, average)
    assert counts == [len(templates)]
    with warnings.catch_warnings():  # neither takes the other's place
        warnings.simplefilter("error")
        again, counts = another_process()
        assert torch.equal(encode_names(again, NAMES, TWO), first)
        assert model or torch.equal(encode_names(again, (name,), templates, average), result)
        assert counts == []


def test_image_weights_and_precision_do_not_matter(clip):
    first = encode_names(clip, NAMES, TWO)
    other, counts = another_process()
    other.visual.proj.data += 1
    other.visual.to(torch.bfloat16)
    assert torch.equal(encode_names(other, NAMES, TWO), first) and counts == []


@pytest.mark.parametrize("how", ["step", "load", "replace", "cast", "inference mode"])
def test_changed_weights_are_noticed(how):
    with torch.inference_mode(how == "inference mode"):  # PyTorch does not count changes of such weights
        clip = tiny_clip.clip().eval()
        first = encode_names(clip, NAMES, TWO)
        new = {name: value + 0.1 for name, value in clip.model.state_dict().items() if "mask" not in name}
        if how == "step":
            with torch.no_grad():
                clip.model.transformer.resblocks[0].mlp.c_fc.weight += 0.1
        elif how == "load":
            clip.model.load_state_dict(new)
        elif how == "replace":
            clip.model.text_projection = torch.nn.Parameter(new["text_projection"] * torch.rand(16))
        elif how == "cast":
            clip.model.transformer.half().float()
        else:
            clip.model.text_projection.mul_(torch.rand(16))
        copy = tiny_clip.clip().eval()
        copy.model.load_state_dict(clip.model.state_dict())
        assert torch.equal(encode_names(clip, NAMES, TWO), encode_names(copy, NAMES, TWO))
        assert not torch.equal(encode_names(clip, NAMES, TWO), first) and not first.is_inference()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_result_changed_in_place_leaves_the_cache_as_it_is(clip, mode):
    first = encode_names(clip, NAMES, TWO)
    before = first.clone()
    with mode():
        first.mul_(2)
    assert torch.equal(encode_names(clip, NAMES, TWO), before)


def test_results_of_inference_mode_serve_a_training_step(clip):
    with torch.inference_mode():
        embeddings = encode_names(clip, NAMES, TWO)
    image = torch.rand(5, 16, requires_grad=True)
    (image @ encode_names(clip, NAMES, TWO).T).sum().backward()
    torch.testing.assert_close(image.grad[0], embeddings.sum(0))


def test_autocast_around_does_not_round(clip, monkeypatch, tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        inside = encode_names(clip, NAMES, TWO)
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "another"))
    assert torch.equal(inside, encode_names(tiny_clip.clip().eval(), NAMES, TWO)) and inside.dtype == torch.float32


def test_a_text_tower_in_training_is_not_cached(clip):
    before = encode_names(clip, NAMES, TWO)
    (file,) = files()
    written = file.read_bytes()
    clip.requires_grad_(True).train()
    for _ in range(2):
        embeddings = encode_names(clip, (*NAMES, "dog"), TWO)
        clip.zero_grad()
        embeddings[:, 0].sum().backward()
        assert clip.model.token_embedding.weight.grad.abs().sum() > 0
    torch.testing.assert_close(embeddings[:3].detach(), before, atol=1e-6, rtol=1e-5)  # encoded in one batch
    clip.model.text_projection.data.mul_(torch.rand(16))  # PyTorch does not count a change through .data
    clip.eval()
    assert file.read_bytes() == written and files() == [file]
    assert not torch.equal(encode_names(clip, NAMES, TWO), before)


@pytest.mark.parametrize(("trainable", "training"), [(False, True), (True, False)])
def test_a_text_tower_that_is_frozen_or_evaluated_is_cached(clip, trainable, training):
    clip.requires_grad_(trainable).train(training)
    counts = counted(clip)
    assert torch.equal(encode_names(clip, NAMES, TWO), encode_names(clip, NAMES, TWO)) and counts == [2, 2, 2]


# Disk


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda stored, data: b"\x00garbage" * 50, ""),
        (lambda stored, data: b"", ""),
        (lambda stored, data: data[:-7], ""),
        (lambda stored, data: {"words": stored["embeddings"]}, "keys"),
        (lambda stored, data: stored | {"embeddings": stored["embeddings"][:2].contiguous()}, "wrong shapes"),
        (lambda stored, data: stored | {"embeddings": stored["embeddings"][:, :5].contiguous()}, "wrong shapes"),
        (lambda stored, data: stored | {"embeddings": torch.tensor(1.0)}, ""),
        (lambda stored, data: stored | {"keys": stored["keys"][:, :7].contiguous()}, "wrong shapes"),
        (lambda stored, data: stored | {"embeddings": stored["embeddings"].half()}, "float16"),
        (lambda stored, data: stored | {"embeddings": stored["embeddings"] / 0}, "not finite"),
    ],
)
def test_a_damaged_file_is_built_again(clip, damage, reason):
    first = encode_names(clip, NAMES, TWO)
    (file,) = files()
    damaged = damage(load_file(file), file.read_bytes())
    file.write_bytes(damaged) if isinstance(damaged, bytes) else save_file(damaged, file)
    again, counts = another_process()
    with pytest.warns(UserWarning, match=rf"text cache {file} is corrupted \(.*{reason}.*\); rebuilding it") as caught:
        assert torch.equal(encode_names(again, NAMES, TWO), first)
    assert counts == [2, 2, 2] and len(caught) == 1
    assert torch.equal(torch.stack([*text.read_rows(file, (16,), warn=pytest.fail).values()]), first)


def test_a_folder_that_cannot_be_written_to_brings_one_warning(clip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path / "file"))
    counts = counted(clip)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for names in (NAMES, NAMES, ("dog",)):
            encode_names(clip, names, TWO)
    assert sum("text embeddings cannot be cached" in str(warning.message) for warning in caught) == 1
    assert counts == [2, 2, 2, 2]


def test_the_file_gets_its_name_once_it_is_whole(clip, monkeypatch):
    seen, original = [], os.replace

    def replace(source, target):
        if seen:
            raise OSError("disk full")
        seen.append((load_file(source)["embeddings"].shape, os.path.exists(target)))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    encode_names(clip, NAMES, TWO)
    assert seen == [((3, 16), False)]
    with pytest.warns(UserWarning, match="cannot be cached .*disk full"):
        encode_names(clip, NAMES, TWO[:1])
    assert [file.suffix for file in files()] == [".safetensors"]


def test_an_interrupted_run_saves_what_it_encoded(clip):
    counts = counted(clip)
    original = clip.encode_text

    def stop(tokens):
        if counts:
            raise KeyboardInterrupt
        return original(tokens)

    clip.encode_text = stop
    with pytest.raises(KeyboardInterrupt):
        encode_names(clip, NAMES, TWO)
    again, counts = another_process()
    encode_names(again, NAMES, TWO)
    assert counts == [2, 2]


def test_rows_of_several_writers_are_joined_up_to_a_limit(tmp_path, monkeypatch):
    """One that read the file before another wrote to it does not remove the other's rows."""
    file = tmp_path / "text" / "rows.safetensors"
    rows = {bytes([i]) * 16: torch.full((4,), float(i)) for i in range(12)}
    threads = [threading.Thread(target=text.add_rows, args=(file, {key: rows[key]})) for key in list(rows)[:8]]
    for thread in threads:  # at the same time: rows may be lost, the file stays whole
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < len(text.read_rows(file, (4,), warn=pytest.fail)) <= 8
    for key, row in rows.items():
        text.add_rows(file, {key: row})
    stored = text.read_rows(file, (4,))
    assert stored.keys() == rows.keys() and all(torch.equal(stored[key], rows[key]) for key in rows)
    monkeypatch.setattr(text, "FILE_BYTES", 5 * 16)
    text.add_rows(file, {b"z" * 16: torch.zeros(4)})
    assert list(text.read_rows(file, (4,))) == [*list(stored)[-4:], b"z" * 16]
