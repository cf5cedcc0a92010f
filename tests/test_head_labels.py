"""From trained scores to labels: text embeddings, windows, sigmoid, and what is subtracted from seen classes."""

import numpy as np
import pytest
import tiny_clip
import tiny_head
import torch
import torch.nn.functional as F

from heads.head import read_text_embeddings
from proxyclip.errors import InputError, NotFound
from proxyclip.text import encode_prompts
from proxyclip.vocabulary import Vocabulary

ALL = pytest.mark.parametrize("name", tiny_head.HEADS)
NAMES = Vocabulary.parse(tiny_head.CLASSES)


def with_drawn_scores(name, **options):
    """A head whose logits are a function of the colours of a window, and large: they differ from place to place."""
    model = tiny_head.head(name, **options)
    generator = torch.Generator().manual_seed(0)
    weights = {part: 20 * torch.randn(4, 3, generator=generator) for part in ("decode", "score")}
    parts = [*weights] if name == "otseg" else ["decode"]
    model.logits = lambda images, text: {
        part: torch.einsum("kc,bchw->bkhw", weights[part], F.avg_pool2d(images - 0.5, 8)) for part in parts
    }
    return model


def plain_prompts(model, name):
    """Unit vectors (P, E) of the prompts of one name."""
    return F.normalize(encode_prompts(model.clip, [text.format(name) for text in model.templates]), dim=-1)


def plain_embedding(model, names):
    """Of one class with these names: (E,), or (P, E) where prompts are kept apart."""
    prompts = [plain_prompts(model, name) for name in names]
    if model.AVERAGE_PROMPTS:
        prompts = [F.normalize(found.mean(0), dim=-1) for found in prompts]
    return prompts[0] if len(prompts) == 1 else F.normalize(sum(prompts) / len(prompts), dim=-1)


@ALL
@torch.no_grad()
def test_a_class_with_several_names_has_their_mean(name):
    model = tiny_head.head(name)
    classes = {"car; truck": ("car", "truck"), "sky": ("sky",), "cow;sheep ; goat": ("cow", "sheep", "goat")}
    text = model.encode_classes(Vocabulary.parse([*classes]))
    expected = torch.stack([plain_embedding(model, names) for names in classes.values()])
    assert text.shape == ((3, 16) if model.AVERAGE_PROMPTS else (3, 2, 16))
    torch.testing.assert_close(text, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(text.shape[:-1]))
    alone = model.encode_classes(Vocabulary.parse(["sky", "car"]))
    torch.testing.assert_close(alone[0], text[1])


@ALL
@torch.no_grad()
def test_heads_use_the_names_of_a_benchmark(name):
    model = tiny_head.head(name)
    vocabulary = Vocabulary.parse(["ship; boat", "sky"], names=["boat", "sky"])
    assert torch.equal(model.encode_classes(vocabulary), model.encode_classes(Vocabulary.parse(["boat", "sky"])))


@ALL
def test_each_word_of_a_background_is_a_query(name):
    """The best of its words counts for the class; what is subtracted from them is that of the class."""
    options = {"classes": ("ground", "car", "tree"), "seen": ("ground", "car")}
    words, photograph = ["tree", "cow", "boat", "car"], tiny_clip.photograph(40, 56)
    listed = Vocabulary.parse(["tree; cow", "ship; vessel", "car"], ["ground", "boat", "car"], lists=["ground"])
    single = with_drawn_scores(name, **options, seen_penalty=0.0).segment(photograph, words, probabilities=words)
    scores = np.stack([single.probabilities[word] for word in words])
    for penalty in (0.0, 0.1):
        model = with_drawn_scores(name, **options, seen_penalty=penalty)
        assert torch.equal(model.encode_classes(listed), model.encode_classes(Vocabulary.parse(words)))
        found = model.segment(photograph, listed, probabilities=listed.names)
        expected = np.stack([scores[:2].max(0) - penalty, scores[2], scores[3] - penalty])
        for index, given in enumerate(listed.names):
            np.testing.assert_allclose(found.probabilities[given], expected[index], atol=1e-6)
        best = expected.argmax(0)
        assert (found.labels == best).mean() > 0.999 and len(np.unique(best)) == 3
        assert all((scores[:2].argmax(0) == word)[best == 0].any() for word in (0, 1))


def saved(path, shape, dtype=np.float32):
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    np.save(path, array)
    return array


@ALL
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@torch.no_grad()
def test_text_embeddings_from_a_file(name, dtype, tmp_path):
    """Rows are found by name and are used as they are: published files are not normalised again."""
    prompts = () if name != "otseg" else (2,)
    array = saved(tmp_path / "text.npy", (4, *prompts, 16), dtype)
    model = tiny_head.head(name, text_embeddings=str(tmp_path / "text.npy"))
    text = model.encode_classes(Vocabulary.parse(["cow", "sky"]))
    assert text.dtype == torch.float32
    np.testing.assert_array_equal(text.numpy(), array[[3, 0]].astype(np.float32))
    assert model.trained()["stored_text"] is not None and "stored_text" not in tiny_head.head(name).trained()
    assert model.to(torch.device("meta")).stored_text.device.type == "meta"  # moves with the model
    other = Vocabulary.parse(["cow", "whale"])  # the file does not know all of them
    without = tiny_head.head(name)
    with_file = tiny_head.head(name, text_embeddings=str(tmp_path / "text.npy"))
    assert torch.equal(with_file.encode_classes(other), without.encode_classes(other))


def write(path, content: bytes):
    path.write_bytes(content)


@pytest.mark.parametrize(
    "save, sentence",
    [
        (lambda path: saved(path, (3, 16)), r"hold \(3, 16\) float32, but \(4, 16\) floating-point numbers"),
        (lambda path: saved(path, (4, 2, 16)), r"hold \(4, 2, 16\)"),
        (lambda path: saved(path, (16, 4)), r"hold \(16, 4\)"),
        (lambda path: np.save(path, np.ones((4, 16), np.int64)), "int64"),
        (lambda path: np.save(path, np.ones((4, 16), complex)), "complex128"),
        (lambda path: np.save(path, np.full((4, 16), "a")), "<U1"),
        (lambda path: np.save(path, np.full((4, 16), np.nan, np.float32)), "not finite"),
        (lambda path: np.save(path, np.full((4, 16), 1e300)), "not finite"),
        (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "cannot be read"),
        (lambda path: np.savez(path.open("wb"), a=np.ones((4, 16))), "several arrays"),
        (lambda path: write(path, b""), "cannot be read"),
        (lambda path: write(path, b"no array"), "cannot be read"),
        (lambda path: write(path, b"PK\x03\x04 no archive"), "cannot be read"),
        (lambda path: write(path, b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', "), "cannot be read"),
        (lambda path: write(path, truncated(path)), "cannot be read"),
        (lambda path: write(path, huge(path)), "cannot be read"),
    ],
)
def test_wrong_text_embeddings(tmp_path, save, sentence):
    path = tmp_path / "text.npy"
    save(path)
    with pytest.raises(InputError, match=sentence) as raised:
        read_text_embeddings(path, tiny_head.CLASSES, 16, None)
    assert str(path) in str(raised.value)


def truncated(path) -> bytes:
    saved(path, (4, 16))
    return path.read_bytes()[:-8]


def huge(path) -> bytes:
    """A header that promises more than fits in memory."""
    saved(path, (4, 16))
    return path.read_bytes().replace(b"(4, 16), }" + b" " * 12, b"(4, 16000000000000), }")


def test_text_embeddings_for_another_number_of_prompts(tmp_path):
    saved(tmp_path / "text.npy", (4, 3, 16))
    with pytest.raises(InputError, match=r"\(4, 2, 16\) floating-point numbers are needed: .*, 2 prompts each"):
        tiny_head.head("otseg", text_embeddings=str(tmp_path / "text.npy"))


def test_text_embeddings_that_do_not_exist(tmp_path):
    for path in (tmp_path / "nothing.npy", tmp_path):
        with pytest.raises(NotFound, match="do not exist"):
            tiny_head.head("zegclip", text_embeddings=str(path))


def plain_scores(model, image, size, window_side):
    """Scores of all classes (K, H, W) at `size`: window by window, at full size, as the papers describe it."""
    _, height, width = image.shape
    text, stride = model.encode_classes(NAMES), model.options.stride
    crop = model.options.crop or max(height, width)
    total, count = torch.zeros(len(tiny_head.CLASSES), height, width), torch.zeros(height, width)
    for i in range(max(height - crop + stride - 1, 0) // stride + 1):
        for j in range(max(width - crop + stride - 1, 0) // stride + 1):
            top, left = (max(min(k * stride + crop, length) - crop, 0) for k, length in ((i, height), (j, width)))
            place = slice(top, top + crop), slice(left, left + crop)
            window = image[:, place[0], place[1]][None]
            logits = model.combine(model(window, text))
            scores = F.interpolate(logits, (window_side,) * 2, mode="bilinear").sigmoid()
            total[:, place[0], place[1]] += F.interpolate(scores, window.shape[2:], mode="bilinear")[0]
            count[place] += 1
    seen = torch.tensor([name in tiny_head.SEEN for name in tiny_head.CLASSES]).float()[:, None, None]
    return F.interpolate((total / count)[None], size, mode="bilinear")[0] - model.options.seen_penalty * seen


@ALL
@pytest.mark.parametrize("image_size, crop", [(32, 32), (48, 32), (24, 32), (48, 0)])  # crop 0: one window
@torch.no_grad()
def test_windows(name, image_size, crop):
    model = with_drawn_scores(name, image_size=image_size, crop=crop)
    image, size = tiny_head.images(1, 40, 75)[0], (50, 61)
    expected = plain_scores(model, image, size, image_size)
    labels, confidence, _ = model.predict(image, size, NAMES)
    torch.testing.assert_close(confidence, expected.amax(0), rtol=1e-4, atol=1e-5)
    best, second = expected.topk(2, dim=0).values
    clear = best - second > 1e-4
    assert torch.equal(labels[clear], expected.argmax(0)[clear]) and clear.float().mean() > 0.9
    assert len(labels.unique()) == 4
    other = plain_scores(model, image, size, 40)  # a sigmoid at another resolution gives other scores
    assert (expected - other).abs().max() > 1e-3


@ALL
def test_seen_classes_are_lowered_where_labels_are_decided(name):
    """Penalties are by name: other names, and a class of several names, have none."""
    photograph = tiny_clip.photograph(40, 56)
    classes = ["cow", "car", "whale", "sky", "car; truck"]
    with pytest.warns(UserWarning, match="share the name 'car'"):
        plain, lowered = (tiny_head.head(name, seen_penalty=value).segment(photograph, classes, probabilities=classes)
                          for value in (0.0, 0.1))  # fmt: skip
    for given in classes:
        penalty = 0.1 if given in tiny_head.SEEN else 0.0
        difference = plain.probabilities[given] - lowered.probabilities[given]
        np.testing.assert_allclose(difference, penalty, atol=1e-6)
    scores = np.stack([lowered.probabilities[given] for given in classes])
    np.testing.assert_array_equal(lowered.labels, scores.argmax(0))
    np.testing.assert_allclose(lowered.confidence, scores.max(0))
    assert not np.array_equal(lowered.labels, plain.labels)
    assert lowered.settings["subtract"] == {"sky": 0.1, "car": 0.1} and plain.settings["subtract"] == {}


@ALL
def test_labels_do_not_depend_on_the_batch(name):
    model = tiny_head.head(name)
    photographs = [tiny_clip.photograph(40, 56, seed) for seed in range(3)]
    together = model.segment(photographs, tiny_head.CLASSES, batch_windows=5)
    for photograph, found in zip(photographs, together, strict=True):
        alone = model.segment(photograph, tiny_head.CLASSES, batch_windows=1)
        np.testing.assert_allclose(found.confidence, alone.confidence, atol=1e-6)
        assert (found.labels == alone.labels).mean() > 0.999
