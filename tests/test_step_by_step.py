"""The engine against the slow and obvious way of tests/step_by_step.py, on random weights."""

import numpy as np
import pytest
import step_by_step
import tiny_clip
import torch
from scored import score_images

from proxyclip.images import resize, scaled_size, to_tensor
from proxyclip.labels import LabelRule, decide_labels
from proxyclip.vocabulary import Vocabulary
from proxyclip.windows import Batches, SlidingWindows

KINDS = {"ProxyCLIP": "proxy", "MaskCLIP": "value", "CLIP": "vanilla"}  # in step_by_step
CLASSES = ("cat", "a dog; hound; wolf", "sky", "red car; truck", "grass")


def sizes(crop: int, stride: int, multiple: int = 56) -> dict:
    return {"crop": crop, "stride": stride, "multiple": multiple}


@pytest.fixture(scope="module")
def parts():
    """Patches of 14 and of 8 pixels: the two grids differ."""
    return {"clip": tiny_clip.clip(vision={"patch_size": 14, "image_size": 42}), "vfm": tiny_clip.vfm()}


def watch_margins(monkeypatch) -> list[float]:
    """How far from the proxy attention's hard threshold the nearest similarity of each window lies."""
    found, slow = [], step_by_step.proxy_mask

    def recorded(features, beta, gamma):
        unit = torch.nn.functional.normalize(features.flatten(1), dim=0)
        similarity = unit.T @ unit
        found.append((similarity - beta * similarity.mean()).abs().min().item())
        return slow(features, beta, gamma)

    monkeypatch.setattr(step_by_step, "proxy_mask", recorded)
    return found


@pytest.fixture
def margins(monkeypatch):
    return watch_margins(monkeypatch)


@torch.inference_mode()
def slowly(model, photograph, classes, threshold=0.0):
    """Labels and class probabilities the slow way."""
    vocabulary = Vocabulary.parse(classes)
    if model.short_side:
        resized = resize(photograph, scaled_size(*photograph.shape[:2], model.short_side))
    else:
        resized = photograph
    return step_by_step.segment(
        model.clip, model.vfm, model.encode_classes(vocabulary), vocabulary.class_of_query, to_tensor(resized),
        model.windows.crop, model.windows.stride, photograph.shape[:2], attention_kind=KINDS[model.method],
        beta=getattr(model.options, "beta", 0), gamma=getattr(model.options, "gamma", 0),
        logit_scale=model.label_rule.scale, threshold=threshold, multiple=model.windows.multiple,
    )  # fmt: skip


def calm(model, size, classes, margins, threshold=0.0, seed=0):
    """A photograph without a similarity so near the threshold that rounding decides, and what the slow way makes of it.

    An entry on the other side of the threshold changes a whole row of the attention: no fair comparison.
    """
    for attempt in range(seed, seed + 40):
        margins.clear()
        photograph = tiny_clip.photograph(*size, attempt)
        labels, probabilities = slowly(model, photograph, classes, threshold)
        if min(margins, default=1) > 1e-6:
            return photograph, labels, probabilities
    raise AssertionError("every photograph has a similarity at the threshold")


def assert_same(result, labels, probabilities, threshold=0.0):
    """Probabilities within 1e-5; equal labels, save where two classes or the threshold are nearer than that."""
    got = torch.stack([torch.from_numpy(result.probabilities[name]) for name in result.classes])
    torch.testing.assert_close(got, probabilities, atol=1e-5, rtol=0)
    best = probabilities.topk(min(2, len(probabilities)), dim=0).values
    torch.testing.assert_close(torch.from_numpy(result.confidence), best[0], atol=1e-5, rtol=0)
    clear = (best[0] - threshold).abs() > 1e-5
    if len(best) == 2:
        clear &= best[0] - best[1] > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(torch.from_numpy(result.labels).long()[clear], labels[clear])


def compare(model, size, margins, classes=CLASSES, threshold=0.0, seed=0, least_classes=2):
    photograph, labels, probabilities = calm(model, size, classes, margins, threshold, seed)
    result = model.segment(photograph, classes, synonyms="best", threshold=threshold, probabilities=classes)
    assert_same(result, labels, probabilities, threshold)
    assert len(labels.unique()) >= least_classes  # otherwise the labels would be no test
    return result


@pytest.mark.parametrize(
    ("size", "windows", "short_side"),
    [
        pytest.param((48, 72), sizes(72, 24, 8), 0, id="one window"),
        pytest.param((70, 101), sizes(56, 24), 0, id="many windows"),
        pytest.param((70, 101), sizes(40, 16), 0, id="padding"),
        pytest.param((37, 83), sizes(56, 16), 0, id="side below the crop"),
        pytest.param((83, 29), sizes(48, 48), 0, id="narrow, no overlap"),
        pytest.param((33, 45), sizes(80, 16), 0, id="picture below the crop"),
        pytest.param((66, 93), sizes(40, 24, 16), 0, id="padded to 16"),
        pytest.param((66, 93), sizes(40, 24, 1), 0, id="not padded"),
        pytest.param((61, 90), sizes(56, 24), 44, id="made smaller"),
        pytest.param((40, 31), sizes(56, 24), 62, id="enlarged"),
        pytest.param((61, 90), sizes(0, 1), 0, id="whole"),
        pytest.param((61, 90), sizes(0, 1), 72, id="whole, enlarged"),
    ],
)
@torch.inference_mode()
def test_windows(parts, margins, size, windows, short_side):
    model = tiny_clip.model(**windows, short_side=short_side, **parts)
    compare(model, size, margins)


@pytest.mark.parametrize("method", ["maskclip", "clip"])
@pytest.mark.parametrize("crop", [0, 40])
def test_methods(parts, margins, method, crop):
    model = tiny_clip.model(**sizes(crop, 24), method=method, **parts)
    compare(model, (61, 83), margins)


def test_the_three_methods_differ(parts):
    photograph = tiny_clip.photograph(61, 83)
    maps = [
        tiny_clip.model(**sizes(40, 24), method=method, **parts)
        .segment(photograph, CLASSES, synonyms="best")
        .confidence
        for method in ("proxyclip", "maskclip", "clip")
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(maps[one] - maps[other]).max() > 0.01


@pytest.mark.parametrize(("beta", "gamma", "scale"), [(0.5, 6.0, 40.0), (1.4, 1.0, 15.0), (0.0, 3.0, 40.0)])
def test_beta_gamma_and_scale(parts, margins, beta, gamma, scale):
    model = tiny_clip.model(**sizes(56, 24), beta=beta, gamma=gamma, logit_scale=scale, **parts)
    compare(model, (61, 83), margins)


@pytest.mark.parametrize(
    "classes",
    [
        pytest.param(("cat", "dog"), id="two"),
        pytest.param(("cat; dog; wolf", "sky", "car; truck; bus; van"), id="several names"),
        pytest.param(tuple(f"thing {i}; stuff {300 - i}" for i in range(7)), id="two names each"),
    ],
)
def test_classes(parts, margins, classes):
    compare(tiny_clip.model(**sizes(56, 24), **parts), (61, 83), margins, classes)


def test_one_class_is_certain(parts):
    result = tiny_clip.model(**sizes(56, 24), **parts).segment(tiny_clip.photograph(30, 41), ["cat"])
    assert (result.labels == 0).all() and (result.confidence == 1).all()


def test_more_classes_than_a_byte_holds(parts, margins):
    model, photograph = tiny_clip.model(**sizes(56, 24), **parts), tiny_clip.photograph(45, 61)
    names = [f"thing number {index}" for index in range(300)]
    winner = names[np.bincount(model.segment(photograph, names).labels.ravel()).argmax()]
    classes = sorted(names, key=winner.__eq__)  # the winner last
    result = compare(model, (45, 61), margins, classes)
    assert result.labels.dtype == np.int32
    assert result.labels.max() == 299
    assert model.segment(photograph, classes[:256]).labels.dtype == np.uint8
    assert model.segment(photograph, classes[:257]).labels.dtype == np.int32


@torch.inference_mode()
def test_names_of_a_class_need_not_be_neighbours(parts, margins):
    """A vocabulary keeps them together; whoever calls `label_map` may not."""
    model, size, owners = tiny_clip.model(**sizes(40, 16), **parts), (61, 83), [2, 0, 1, 0, 2, 1]
    text = model.encode_classes(Vocabulary.parse(["cat; dog; sky; red car; truck; grass"]))
    for seed in range(40):
        margins.clear()
        picture = to_tensor(tiny_clip.photograph(*size, seed))
        labels, probabilities = step_by_step.segment(model.clip, model.vfm, text, owners, picture, 40, 16, (50, 99))
        if min(margins) > 1e-6:
            break
    scores = model.image_scores(picture, text)
    got, confidence, maps = decide_labels(scores, (50, 99), model.label_rule, torch.tensor(owners), keep=range(3))
    torch.testing.assert_close(torch.stack([maps[k] for k in range(3)]), probabilities, atol=1e-5, rtol=0)
    torch.testing.assert_close(confidence, probabilities.amax(0), atol=1e-5, rtol=0)
    clear = probabilities.topk(2, dim=0).values.diff(dim=0)[0].abs() > 1e-5
    assert torch.equal(got[clear], labels[clear]) and len(labels.unique()) == 3


def test_threshold(parts, margins):
    model = tiny_clip.model(**sizes(56, 24), **parts)
    confidence = model.segment(tiny_clip.photograph(61, 83), CLASSES, synonyms="best").confidence
    threshold = float(np.quantile(confidence, 0.4))
    photograph, labels, probabilities = calm(model, (61, 83), CLASSES, margins, threshold)
    assert_same(
        model.segment(photograph, CLASSES, synonyms="best", threshold=threshold, probabilities=CLASSES),
        labels,
        probabilities,
        threshold,
    )
    below = probabilities.amax(0) < threshold
    assert 0.05 < below.float().mean() < 0.95
    assert (labels[below] == 0).all() and (probabilities.argmax(0)[below] != 0).any()


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1)])
def test_one_row_or_column(parts, margins, size):
    compare(tiny_clip.model(**sizes(40, 16), **parts), size, margins, least_classes=1)


@pytest.mark.parametrize("size", [(1, 7), (7, 1)])
def test_one_row_or_column_enlarged(parts, margins, size):
    result = compare(tiny_clip.model(**sizes(32, 16), short_side=20, **parts), size, margins, least_classes=1)
    assert result.labels.shape == size


SIZES = ((61, 83), (30, 44), (83, 61), (61, 83), (50, 56))


@pytest.fixture(scope="module")
def batch(parts):
    """Photographs of different sizes, and each one's result on its own."""
    with pytest.MonkeyPatch.context() as patch:
        margins = watch_margins(patch)
        model = tiny_clip.model(**sizes(48, 24, 8), **parts)
        photographs = [calm(model, size, CLASSES, margins, seed=3 * i)[0] for i, size in enumerate(SIZES)]
    return (
        model,
        photographs,
        [model.segment(photograph, CLASSES, synonyms="best", probabilities=CLASSES) for photograph in photographs],
    )


@pytest.mark.parametrize("batch_windows", [1, 3, 16, 1000])
def test_batches_of_different_sizes(batch, batch_windows):
    model, photographs, alone = batch
    together = model.segment(photographs, CLASSES, synonyms="best", batch_windows=batch_windows, probabilities=CLASSES)
    assert len(together) == len(photographs)
    for result, single, photograph in zip(together, alone, photographs, strict=True):
        assert np.array_equal(result.image, photograph)
        probabilities = torch.stack([torch.from_numpy(single.probabilities[name]) for name in CLASSES])
        assert_same(result, torch.from_numpy(single.labels).long(), probabilities)


@pytest.fixture(scope="module")
def scores():
    generator = torch.Generator().manual_seed(0)

    def window_scores(crops):
        return torch.rand(len(crops), 6, 5, 9, generator=generator) / 5

    return next(
        score_images(window_scores, [torch.zeros(3, 61, 83)], SlidingWindows(40, 16, 56), torch.zeros(3), Batches(4))
    )


@pytest.mark.parametrize("elements", [1, 700, 10**9])
@pytest.mark.parametrize("columns", [1, 17, 10**6])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_tiles_make_no_difference(scores, elements, columns, sigmoid):
    rule, owners = LabelRule(40.0, window_sigmoid=sigmoid, threshold=0.3), torch.tensor([0, 1, 2, 0, 3, 1])
    labels, confidence, maps = decide_labels(scores, (31, 44), rule, owners, keep=range(4))
    again, same, others = decide_labels(scores, (31, 44), rule, owners, keep=range(4), tile=(elements, columns))
    torch.testing.assert_close(same, confidence, atol=2e-6, rtol=0)
    assert (again != labels).float().mean() < 1e-3
    assert len(labels.unique()) == 4 or sigmoid
    for index in range(4):
        torch.testing.assert_close(others[index], maps[index], atol=2e-6, rtol=0)
