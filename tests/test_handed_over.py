"""Values that one part hands to the next, each with parts just large enough to see whether it arrives."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_clip
import torch
from fake_benchmark import Samples, one_by_one, predict
from PIL import Image

import eval as eval_script
from configs import benchmark_run
from configs.load import load_config
from configs.overrides import Overrides
from configs.protocol import changes, protocol_of
from proxyclip.evaluation import loop
from proxyclip.evaluation.loop import LabelledImage
from proxyclip.evaluation.metrics import seen_unseen
from proxyclip.evaluation.predictions import PredictionWriter
from proxyclip.evaluation.progress import Counts, Progress
from proxyclip.labels import LabelRule
from proxyclip.loading import plan
from proxyclip.pictures.overlay import panels
from proxyclip.reports import html_report
from proxyclip.reports.run_log import append_run, find_run, log_entry
from proxyclip.segmentor import Segmentor
from proxyclip.vocabulary import Vocabulary

CLASSES, COLOURS = ("sky", "sea", "sand"), ((0, 0, 255), (0, 255, 0), (255, 0, 0))


class Model(torch.nn.Module):
    """What `protocol_of` reads of a model: two halves, prompts, a device."""

    templates = ("a {}.",)
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.clip, self.vfm = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
        for number, weight in enumerate(self.parameters()):
            torch.nn.init.constant_(weight, number)

    compiled = False

    def settings(self) -> dict:
        return {"method": "Model"}


SAMPLES = SimpleNamespace(items=[SimpleNamespace(stem=f"image{index}") for index in range(3)])


def protocol(model=None, limit=None) -> dict:
    return protocol_of("scenes", load_config("scenes"), model or Model(), SAMPLES, limit)


@pytest.mark.parametrize("name", ["clip.weight", "clip.bias", "vfm.weight", "vfm.bias"])
def test_weights_of_both_halves_belong_to_the_protocol(name):
    model = Model()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] += 1e-6
    changed = protocol(model)
    assert {key for key, value in protocol().items() if changed[key] != value} == {"weights"}


def test_the_device_belongs_to_the_protocol(monkeypatch):
    model = Model()
    assert protocol(model)["device"] == "cpu"
    names = {"cuda:0": "H100", "cuda:1": "T4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[str(device)])
    for place in names:
        model.device = torch.device(place)
        assert protocol(model)["device"] == names[place]
    model.device = torch.device("mps")
    assert protocol(model)["device"] == "mps"


def test_a_limit_counts_if_it_leaves_something_out():
    assert [protocol(limit=limit)["limit"] for limit in (None, 1, 2, 3, 4)] == [None, 1, 2, None, None]


def scene():
    """Image (8, 12, 3), ground truth and prediction (8, 12), which differ and have nothing that cannot be either."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (8, 12, 3), np.uint8)
    return image, np.repeat([0, 1], 48).reshape(8, 12).astype(np.int32), np.full((8, 12), 2)


def labelled(stem: str, image: np.ndarray, label: np.ndarray) -> LabelledImage:
    return LabelledImage(stem, torch.from_numpy(image), torch.from_numpy(label))


def test_the_writer_says_which_map_is_the_prediction(tmp_path):
    image, truth, prediction = scene()
    writer = PredictionWriter(CLASSES, COLOURS, tmp_path / "indices", tmp_path / "panels")
    writer(labelled("a", image, truth), prediction)
    assert (np.asarray(Image.open(tmp_path / "indices" / "a.png")) == 2).all()
    expected = panels(image, truth, prediction, CLASSES, COLOURS)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "panels" / "a.png")), np.asarray(expected))


def test_the_report_says_which_map_is_the_prediction(monkeypatch):
    image, truth, prediction = scene()
    handed = []
    monkeypatch.setattr(html_report, "panels", lambda *given: handed.append(given))

    class OneImage:
        items = [SimpleNamespace(stem="a")]

        def __getitem__(self, index):
            return "a", image, truth

    predict_each = one_by_one(lambda *_: prediction)
    html_report.worst_images(counts(), OneImage(), CLASSES, colours=COLOURS, predict=predict_each, resize=None)
    ((given_image, given_truth, given_prediction, *_),) = handed
    for given, expected in ((given_image, image), (given_truth, truth), (given_prediction, prediction)):
        assert np.array_equal(given, expected)


@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "clip"])
def test_a_preset_s_settings_belong_to_its_models(method):
    """Another CLIP, or for a method that needs one another VFM, takes the method's own values, and any word."""
    own = plan("mini", method=method)
    assert own.options.crop == 64 and own.known_words
    other = plan("mini", method=method, clip="ViT-B-16:random")
    assert other.options == type(other.options)() and other.known_words is None
    other = plan("mini", method=method, vfm="dino-vitb8:random")
    expected = type(other.options)() if method == "proxyclip" else own.options
    assert other.options == expected and other.known_words
    assert plan("mini", method=method, clip=own.clip).options == own.options


def test_what_is_subtracted_goes_by_the_names_of_a_benchmark():
    """A class may be asked for with other words; the penalty of unseen classes is known by their own names."""
    model = tiny_clip.model(crop=32, stride=16)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    vocabulary = Vocabulary.parse(["ship; vessel", "water"], ["boat", "sea"])
    for name, expected in (("boat", 1), ("sea", 0)):
        model.label_rule = LabelRule(scale=1.0, subtract=((name, 1000.0),))
        assert (model.predict(image, (32, 32), vocabulary).labels == expected).all()


@pytest.mark.parametrize("changed", [{}, {"checkpoint_clip": "a.pt"}, {"checkpoint_vfm": "b.pt"}, {"vfm_layer": 3},
                                     {"vfm_features": "k"}])  # fmt: skip
def test_what_of_the_models_was_changed(changed):
    overrides = Overrides(load_config("scenes"), load_config("scenes"), {})
    standard = plan("mini")
    found = changes(overrides, replace(standard, **changed), standard, None, "0123456789")
    files = {"checkpoint_clip": "a.pt 012345", "checkpoint_vfm": "b.pt 012345"}
    assert found == {name: files.get(name, value) for name, value in changed.items()}


def test_eval_hands_on_what_the_command_line_says(tmp_path, monkeypatch):
    """limit, skip_bad, resume and split reach the evaluation, and batch_windows the model."""
    evaluate, predict, decide = loop.evaluate, Segmentor.predict_each, Segmentor.decide
    runs, batches, names = [], [], []
    monkeypatch.setattr(
        loop, "evaluate", lambda *args, **options: runs.append((*args, options)) or evaluate(*args, **options)
    )
    monkeypatch.setattr(
        Segmentor, "predict_each", lambda *given, **more: batches.append(given[-1]) or predict(*given, **more)
    )
    monkeypatch.setattr(
        Segmentor,
        "decide",
        lambda *args, **more: names.append((args[3].name, more["confidence"])) or decide(*args, **more),
    )
    writers = []
    monkeypatch.setattr(benchmark_run, "PredictionWriter", lambda *given: writers.append(given))
    arguments = "--config scenes --model mini --device cpu --workers 0 --limit 1 --skip-bad --resume --batch-windows 3"
    eval_script.main([*arguments.split(), "--save-predictions", "--workdir", str(tmp_path), "--set", "split=tune"])
    ((_, samples, classes, options),) = runs
    expected = {"workers": 0, "skip_bad": True, "resume": "resume", "limit": 1, "name": "scenes"}
    assert classes == 24 and options.items() >= expected.items() and options["device"] == torch.device("cpu")
    config = load_config("scenes")
    assert samples.items == config.data.open(split="tune").items != config.data.open(split=config.split).items
    assert batches == [3] and names == [(samples.items[0].stem, False)]  # no confidence is asked for
    ((*known, predictions, panels),) = writers
    assert known == [config.data.classes, config.data.colours] and panels is None
    assert predictions.parent == tmp_path / "predictions"


def test_a_resumed_run_does_not_look_at_skipped_images_again(tmp_path):
    samples = Samples(4, broken=(1,))
    for resume in ("refuse", "resume"):
        progress = Progress(tmp_path, {})
        found = loop.evaluate(one_by_one(predict), samples, 5, skip_bad=True, progress=progress, resume=resume)
        assert len(found.images) == 3 and list(found.skipped) == ["folder/image001"]
        samples.broken = ()  # image 1 would be counted now, if it was read


def counts(**more) -> Counts:
    return Counts(np.arange(9).reshape(3, 3), {"a": (50.0, 40.0)}, **more)


def logged(unseen: dict, found: Counts) -> dict:
    names = {"dataset": "d", "model": "m", "clip": None, "vfm": None}
    return log_entry(names, CLASSES, found, unseen, {"config": "c"}, {}, "2026-01-01 00:00:00")


def test_unseen_classes_are_found_by_their_names():
    for name, index in (("sky", 0), ("sand", 2)):
        assert logged({"z": (name,)}, counts())["zero_shot"]["z"] == seen_unseen(counts().matrix, [index])


def test_a_run_that_left_images_out_is_found_only_if_that_is_allowed(tmp_path):
    path = tmp_path / "results.jsonl"
    append_run(path, logged({}, counts(skipped={"b": "is damaged"})))
    assert find_run(path, {"config": "c"}, False) is None and find_run(path, {"config": "c"}, True)
    append_run(path, logged({}, counts()))
    assert find_run(path, {"config": "c"}, False)
