"""The contract: a toy head that uses everything heads need of it, held against the slow way."""

import json
import pickle

import numpy as np
import pytest
import tiny_clip
import tiny_head
import tiny_training
import torch
import torch.nn.functional as F

import proxyclip
from heads.head import TrainableHead
from proxyclip.errors import InputError
from proxyclip.images import Resize, resize, to_tensor
from proxyclip.labels import LabelMap, LabelRule
from proxyclip.segmentor import Sample, Segmentor, constant, to_host
from proxyclip.vocabulary import Vocabulary
from proxyclip.windows import SlidingWindows, View, WindowScores, windows_per_batch

CLASSES = ["cat", "dog; hound", "sky"]


class Square(Resize):
    """Without keeping the aspect ratio."""

    def size(self, height, width):
        return 40, 40


class ToyHead(Segmentor):
    """Scores of colours: the better of a class's P = 2 prompts counts; a global view besides windows."""

    method = "Toy"
    queries = "names"

    def __init__(self, **rule):
        super().__init__(
            windows=SlidingWindows(24, 16),
            label_rule=LabelRule(window_sigmoid=True, activation="none", **rule),
            short_side=0,
            padding_colour=(0.5, 0.5, 0.5),
            patch_size=4,
        )
        self.mixer = torch.nn.Linear(3, 3)
        with torch.no_grad():
            self.mixer.weight.copy_(torch.tensor([[4.0, -2, 1], [-3, 5, 1], [1, 1, -4]]))
            self.mixer.bias.zero_()

    @property
    def resize(self):
        return Square(antialias=self.antialias)

    def encode_classes(self, vocabulary):
        seeds = [sum(map(ord, name)) for name in vocabulary.names]
        return torch.stack([torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def window_scores(self, crops, text):
        patches = F.avg_pool2d(crops, 4).permute(0, 2, 3, 1)  # (B, h, w, 3)
        scores = torch.einsum("bhwc,qpc->bqphw", self.mixer(patches), text)  # (B, Q, P, h, w)
        return scores.amax(2)

    def image_scores(self, image, text, batch_windows=None):
        (windows,) = super().image_scores(image, text, batch_windows).views
        small = F.interpolate(image[None], (24, 24), mode="bilinear")
        whole = self.window_scores(small, text)[0].permute(1, 0, 2)  # (h, Q, w)
        size = image.shape[1:]
        view = View(whole, SlidingWindows(0, 1), size, weight=0.5, window_size=(24, 24))
        return WindowScores((View(windows.scores, windows.windows, size, weight=0.5), view))


@torch.no_grad()
def slowly(head, image, classes, penalty=()):
    """(H, W, 3) uint8 -> the scores (K, H, W)."""
    text = head.encode_classes(Vocabulary.parse(classes))
    prepared = head.prepare(image)
    total, covered = torch.zeros(len(classes), 40, 40), torch.zeros(40, 40)
    for top in (0, 16):
        for left in (0, 16):
            crop = prepared[None, :, top : top + 24, left : left + 24]
            scores = F.interpolate(head.window_scores(crop, text), (24, 24), mode="bilinear").sigmoid()
            total[:, top : top + 24, left : left + 24] += scores[0]
            covered[top : top + 24, left : left + 24] += 1
    whole = F.interpolate(prepared[None], (24, 24), mode="bilinear")
    whole = F.interpolate(head.window_scores(whole, text), (24, 24), mode="bilinear").sigmoid()
    whole = F.interpolate(whole, (40, 40), mode="bilinear")[0]
    mixed = F.interpolate((total / covered + whole)[None] / 2, image.shape[:2], mode="bilinear")[0]
    for index, value in penalty:
        mixed[index] -= value
    return mixed


@pytest.mark.parametrize("penalty", [(), (("cat", 0.2), ("sky", 0.05))])
def test_a_head_through_segment_and_predict(penalty):
    head, image = ToyHead(subtract=penalty), tiny_clip.photograph(50, 71)
    expected = slowly(head, image, CLASSES, [(CLASSES.index(name), value) for name, value in penalty])
    result = head.segment(image, CLASSES, probabilities=["dog; hound"])
    np.testing.assert_allclose(result.confidence, expected.amax(0), atol=2e-6)
    np.testing.assert_allclose(result.probabilities["dog; hound"], expected[1], atol=2e-6)
    clear = expected.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5
    assert torch.equal(torch.from_numpy(result.labels).long()[clear], expected.argmax(0)[clear])
    assert len(np.unique(result.labels)) > 1
    labels = head.predict(head.prepare(image).cpu(), (50, 71), Vocabulary.parse(CLASSES)).labels
    assert np.array_equal(labels, result.labels)


def test_a_penalty_moves_labels():
    image = tiny_clip.photograph(50, 71)
    free, fined = (ToyHead(subtract=rule).segment(image, CLASSES).labels for rule in ((), (("cat", 0.2),)))
    assert (fined == 0).sum() < (free == 0).sum()


def test_what_a_worker_needs_is_sent_without_the_model():
    assert pickle.loads(pickle.dumps(ToyHead().resize)).size(30, 90) == (40, 40)
    model = tiny_clip.model(short_side=60)
    assert model.resize.size(30, 90) == (60, 180) and len(pickle.dumps(model.resize)) < 300


def test_antialiasing_is_a_choice_of_the_model(monkeypatch):
    """Recorded where it is on; nothing changes in the records of other models."""
    image, head = tiny_clip.photograph(50, 71), ToyHead()
    assert "antialias" not in head.settings()
    for choice in (False, True):
        monkeypatch.setattr(ToyHead, "antialias", choice)
        expected = resize(image, (40, 40), antialias=choice)
        assert torch.equal(head.prepare(image), to_tensor(expected))
        assert np.array_equal(pickle.loads(pickle.dumps(head.resize))(image), expected)
    assert head.settings()["antialias"] is True and tiny_head.head("zegclip").settings().get("antialias") is None
    monkeypatch.setattr(TrainableHead, "antialias", True)
    assert tiny_head.head("zegclip").settings()["antialias"] is True


def test_a_head_can_be_trained_after_it_has_segmented():
    head = ToyHead()
    head.segment(tiny_clip.photograph(50, 71), CLASSES)
    text = head.encode_classes(Vocabulary.parse(CLASSES))
    head.window_scores(torch.rand(2, 3, 24, 24), text).mean().backward()
    assert head.mixer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "clip"])
def test_gradients_reach_the_image_after_segmenting(method):
    """Nothing that segment leaves behind, such as a position table, keeps a training step from its gradients."""
    model = tiny_clip.model(method, crop=40, stride=24)
    model.segment(tiny_clip.photograph(50, 71), CLASSES)
    crops = torch.rand(2, 3, 40, 56, requires_grad=True)
    model.window_scores(crops, model.encode_classes(Vocabulary.parse(CLASSES))).sum().backward()
    assert crops.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(2, 90), (90, 2), (1, 1), (5, 5)])
@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "clip"])
def test_an_image_smaller_than_a_patch(method, size):
    for crop in (0, 40):
        result = tiny_clip.model(method, crop=crop, stride=24).segment(tiny_clip.photograph(*size), CLASSES)
        assert result.labels.shape == size and np.isfinite(result.confidence).all()


def test_a_batch_holds_as_many_windows_as_its_tokens_allow():
    model = tiny_clip.model(crop=64, stride=32)  # 8 × 8 patches
    assert model.batches(None).size == 12 and model.batches(3).size == 3
    assert tiny_clip.model(crop=336, stride=112).batches(None).size == 1
    assert windows_per_batch(64, 8, torch.device("cpu"), 150_000_000) == 1  # a full-size model gains nothing
    assert windows_per_batch(336, 8, torch.device("mps"), 150_000_000) == 18


def test_settings_are_json():
    settings = ToyHead().settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["method"] == "Toy" and settings["crop"] == 24


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("threshold", [True, "0.5", 1.5, float("nan")]),
        ("batch_windows", [0, 1.5, "2", True]),
        ("max_pixels", ["100", None, float("nan"), float("inf"), 0, -1, True]),
    ],
)
def test_values_that_cannot_be(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{name} is {value!r}; "):
            ToyHead().segment(tiny_clip.photograph(20, 20), CLASSES, **{name: value})


def test_numpy_s_numbers_are_numbers():
    head, image = ToyHead(), tiny_clip.photograph(20, 20)
    result = head.segment(image, CLASSES, threshold=np.float32(0.5), batch_windows=np.int64(2))
    assert result.settings["threshold"] == 0.5
    assert np.array_equal(result.labels, head.segment(image, CLASSES, threshold=0.5).labels)


def test_predict_hands_the_threshold_on():
    head, image = ToyHead(), to_tensor(tiny_clip.photograph(40, 40))
    vocabulary = Vocabulary.parse(CLASSES)
    labels, confidence, _ = head.predict(image, (40, 40), vocabulary)
    middle = float(confidence[labels > 0].median())
    again = head.predict(image, (40, 40), vocabulary, threshold=middle).labels
    assert torch.equal(again, labels.where(confidence >= middle, 0)) and not torch.equal(again, labels)


@pytest.mark.parametrize(
    ("method", "refine"), [("proxyclip", "tlp"), ("naclip", "pamr"), ("glaclip", None), ("clip", None)]
)
def test_results_do_not_depend_on_the_caller_s_settings(method, refine):
    model, image = proxyclip.load("mini", method=method, refine=refine, device="cpu"), tiny_clip.photograph(70, 91)
    plain = model.segment(image, ["sky", "tree", "road"])
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            other = model.segment(image, ["sky", "tree", "road"])
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert np.array_equal(plain.labels, other.labels) and np.array_equal(plain.confidence, other.confidence)


def test_each_device_has_its_own_size_of_batches():
    model = tiny_clip.model(crop=64, stride=32)
    on_cpu = model.batches(None)
    on_cpu.size = 1  # as after a batch that did not fit
    assert model.to("meta").batches(None).size > 1 and model.to_empty(device="cpu").batches(None) is on_cpu


def test_a_label_map_is_yielded_once_it_has_arrived(monkeypatch):
    """CUDA copies behind the work: until the event, the memory of a copy holds anything."""
    copied, arrived = [], []

    class Event:
        def record(self, stream):
            self.number = len(copied)
            copied.append(self)

        def synchronize(self):
            arrived.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    maps = [LabelMap(torch.full((2, 3), n), torch.zeros(2, 3), {1: torch.ones(2, 3)}) for n in range(5)]
    samples = [(Sample(torch.zeros(3, 2, 3), (2, 3), item=number), maps[number]) for number in range(5)]
    for number, (sample, label_map) in enumerate(to_host(iter(samples), torch.device("cuda"))):
        assert arrived == list(range(number + 1)) and len(copied) == min(number + 3, 5)
        assert sample.item == number and (label_map.labels == number).all() and label_map.class_scores[1].all()
        assert label_map.labels.data_ptr() != maps[number].labels.data_ptr()  # not the pinned memory itself
    assert len(arrived) == 5


@pytest.mark.parametrize(
    ("method", "flip", "scales"),
    [
        ("proxyclip", True, (1.0, 0.5)),
        ("glaclip", True, (1.0, 0.5)),
        ("clip", True, (1.0,)),
        ("clip", False, (0.75, 1.0, 1.5)),
    ],
)
def test_augmentation_averages_score_maps(method, flip, scales):
    """Each view alone, brought to the size of the image, flipped back and averaged."""
    options = {"method": method, "device": "cpu", "crop": 60, "stride": 40, "short_side": 72}
    model = proxyclip.load("mini", **options, flip=flip, scales=scales)
    image, vocabulary = tiny_clip.photograph(71, 90), Vocabulary.parse(["sky", "tree", "road"])
    plain, size = proxyclip.load("mini", **options), image.shape[:2]
    raw = LabelRule(activation="none")
    total = torch.zeros(3, *size)
    for scale in scales:
        height, width = plain.resize.size(*size)
        scaled = to_tensor(resize(image, (round(height * scale), round(width * scale))))
        for mirrored in (False, True) if flip else (False,):
            view = Sample(scaled.flip(2) if mirrored else scaled, size)
            ((_, label_map),) = plain.predict_each([view], vocabulary, raw, keep=range(3))
            maps = torch.stack([label_map.class_scores[index] for index in range(3)])
            total += maps.flip(2) if mirrored else maps
    expected = total / (len(scales) * (1 + flip))
    sample = Sample(model.pin(model.resize(image)), size)
    for _, label_map in model.predict_each([sample, sample], vocabulary, raw, keep=range(3)):
        found = torch.stack([label_map.class_scores[index] for index in range(3)])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    settings = model.settings()
    assert settings.get("flip", False) is flip and settings.get("scales", [1.0]) == list(scales)
    assert "flip" not in plain.settings() and "scales" not in plain.settings()


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, 1.0), (20.0,)])
def test_scales_that_cannot_be(scales):
    with pytest.raises(InputError, match="scales are .*; choose different numbers"):
        proxyclip.load("mini", device="cpu", scales=scales)


# Many images


NAMES = ["sky", "sea", "a boat; ship", "grass"]
SIZES = [(64, 64), (40, 50), (72, 100), (97, 64), (20, 20)]  # some are smaller than a window
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def noise() -> list[np.ndarray]:
    """Images where many pixels are nearly tied."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def model_of(kind: str, device: str):
    if kind == "head":
        head = tiny_head.head("zegclip", classes=tiny_training.CLASSES, seen=tiny_training.SEEN, short_side=48)
        return head.to(device).eval()
    return proxyclip.load("mini", method=kind, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["proxyclip", "maskclip", "pearl", "glaclip", "head"])
def test_labels_do_not_depend_on_the_stream(kind, device):
    model, given = model_of(kind, device), noise()
    names = list(model.classes) if kind == "head" else NAMES
    model.short_side = 0  # windows of many sizes
    in_order = model.segment(given, names)
    order = np.random.default_rng(1).permutation(len(given))
    shuffled = model.segment([given[index] for index in order], names)
    some = model.segment([given[index] for index in (2, 0)], names)
    again = dict(zip(order, shuffled, strict=True))
    for index, expected in [*enumerate(in_order), *zip((2, 0), some, strict=True)]:
        for found in (again[index], model.segment(given[index], names)):
            assert found.labels.tobytes() == expected.labels.tobytes()
            assert found.confidence.tobytes() == expected.confidence.tobytes()
        assert np.array_equal(expected.image, given[index])


def test_the_items_of_samples_come_back():
    model, vocabulary = proxyclip.load("mini", method="maskclip", device="cpu"), Vocabulary.parse(NAMES)
    samples = [Sample(model.prepare(image), image.shape[:2], None, index) for index, image in enumerate(noise())]
    shapes = [(sample.item, label_map.labels.shape) for sample, label_map in model.predict_each(samples, vocabulary)]
    assert shapes == list(enumerate(SIZES))


def test_constants_of_one_value_and_several_types():
    """(0,) and (0.0,) are equal, and label maps have the type of the class indices."""
    types = [(0.0, torch.float32), (0, torch.uint8), (0, torch.int32)]
    assert [constant((value,), dtype, torch.device("cpu")).dtype for value, dtype in types] == [t for _, t in types]
