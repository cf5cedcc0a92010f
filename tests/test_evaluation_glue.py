"""What evaluation hands from one part to the next: these fail where a value is dropped, swapped or replaced."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_benchmarks
import tiny_clip
import tiny_head
import tiny_model
import tiny_training
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import eval as eval_script
import proxyclip
from configs.load import load_config
from configs.overrides import read_overrides
from heads.training.loop import scores_on
from proxyclip.evaluation.progress import Progress
from proxyclip.images import read_image, resize, to_tensor
from proxyclip.segmentor import Segmentor

SIZES = ((45, 60), (57, 48))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save(folder)
    return folder


def settings(folder: Path) -> dict:
    return {"clip": str(folder / "clip"), "vfm": f"dino:{folder / 'vfm'}", "templates": "a {}.", "short_side": 40,
            "crop": 32, "stride": 16, "logit_scale": 25.0}  # fmt: skip


def evaluate(tmp_path, config, chosen: dict, *options) -> dict:
    """Runs eval.py on a tiny benchmark; returns its line."""
    root = tmp_path / "data"
    if not root.exists():
        labels = [np.random.default_rng(h).integers(0, 3, (h, w)) for h, w in SIZES]
        for index, (_, image, _) in enumerate(tiny_benchmarks.build(root, config, labels)):
            Image.fromarray(tiny_clip.photograph(*SIZES[index], seed=index)).save(image)
    values = [f"{name}={value}" for name, value in chosen.items()]
    common = ["--data-root", root, "--workdir", tmp_path / "out", "--workers", 0, "--device", "cpu", "--json",
              tmp_path / "line.json"]  # fmt: skip
    eval_script.main(["--config", config, *map(str, [*common, *options]), "--set", *values])
    return json.loads((tmp_path / "line.json").read_text())


@pytest.mark.parametrize("method", ["proxyclip", "maskclip"])
@pytest.mark.parametrize("config", ["cfg_voc21", "cfg_voc20b", "cfg_context60", "cfg_voc20"])
def test_eval_predicts_what_segment_gives(tmp_path, folder, config, method):
    """Pixel by pixel, with the benchmark's own words and a threshold that decides about a part of the pixels."""
    chosen = settings(folder)
    model = proxyclip.load(method=method, **chosen, device="cpu")
    queries, threshold = load_config(config).queries, 0.0
    if config in ("cfg_voc21", "cfg_context60"):
        confidence = model.segment(tiny_clip.photograph(*SIZES[0]), queries, synonyms="best").confidence
        threshold = float(np.quantile(confidence, 0.5))
        chosen["threshold"] = threshold
    evaluate(tmp_path, config, chosen, "--save-predictions", "--method", method)
    stems, images, _ = tiny_benchmarks.LAYOUTS[config][3], tiny_benchmarks.LAYOUTS[config][0], None
    for stem in stems:
        (file,) = (tmp_path / "out" / "predictions").glob(f"*/{stem}.png")
        expected = model.segment(tmp_path / "data" / images.format(stem), queries, threshold=threshold, synonyms="best")
        assert np.array_equal(np.asarray(Image.open(file)), expected.labels)
        assert len(np.unique(expected.labels)) > 1
        if threshold:
            below = expected.confidence < threshold
            assert below.any() and not below.all() and (expected.labels[below] == 0).all()
            free = model.segment(tmp_path / "data" / images.format(stem), queries, synonyms="best").labels
            assert (free[below] != 0).any()
    if config != "cfg_context60":
        assert queries != load_config(config).data.classes  # the words of a benchmark are not its class names


@pytest.fixture(params=[False, True])
def seen_images(request, monkeypatch) -> list:
    """The images that models get, with and without antialiasing."""
    seen, upload = [], Segmentor.upload

    def watched(model, image):
        seen.append(image)
        return upload(model, image)

    monkeypatch.setattr(Segmentor, "upload", watched)
    monkeypatch.setattr(Segmentor, "antialias", request.param)
    return seen


def same_as_in_segment(model, seen, images) -> bool:
    """Whether models got these (H, W, 3), each resized as the model says, and `prepare` does the same."""
    sizes = [model.resize.size(*image.shape[:2]) for image in images]
    resized = [resize(*pair, model.antialias) for pair in zip(images, sizes, strict=True)]
    got = len(seen), all(map(torch.equal, seen, map(torch.from_numpy, resized)))
    prepared = map(to_tensor, resized)
    return got == (len(images), True) and all(map(torch.equal, map(model.prepare, images), prepared))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_resizes_as_segment_does(tmp_path, folder, seen_images, workers):
    model = proxyclip.load(**settings(folder), device="cpu")
    line = evaluate(tmp_path, "cfg_voc20", settings(folder), "--workers", workers)
    stems, path = tiny_benchmarks.LAYOUTS["cfg_voc20"][3], tiny_benchmarks.LAYOUTS["cfg_voc20"][0]
    images = [read_image(tmp_path / "data" / path.format(stem)) for stem in stems]
    assert line["images"] == 2 and same_as_in_segment(model, seen_images, images)


@pytest.mark.parametrize("workers", [0, 1])
def test_scores_of_a_training_run_resize_as_segment_does(seen_images, workers):
    head = tiny_head.head("zegclip", classes=tiny_training.CLASSES, seen=tiny_training.SEEN, short_side=40)
    samples = tiny_training.Images(2)
    scores_on(samples, head, workers=workers)()
    images = [samples[index][1] for index in range(2)]
    assert same_as_in_segment(head, seen_images, images)


STANDARD = {"short_side": "44", "crop": "40", "stride": "8", "multiple": "8", "logit_scale": "30", "beta": "1.1",
            "gamma": "5", "templates": "one {}.", "vfm_layer": "1", "vfm_features": "k"}  # fmt: skip


def key(protocol: dict) -> str:
    return Progress(Path("out"), protocol).folder.name


@pytest.fixture(scope="module")
def standard(tmp_path_factory, folder) -> dict:
    return evaluate(tmp_path_factory.mktemp("standard"), "cfg_voc21", settings(folder))


@pytest.mark.parametrize("name", STANDARD)
def test_every_setting_changes_the_resume_key_and_is_recorded(tmp_path, folder, standard, name):
    line = evaluate(tmp_path, "cfg_voc21", settings(folder) | {name: STANDARD[name]})
    assert key(line["protocol"]) != key(standard["protocol"])
    value = line["changed"][name]
    assert str(value[0] if isinstance(value, list) else value).removesuffix(".0") == STANDARD[name]


def test_every_entry_of_the_protocol_counts(standard):
    """Emptying or changing any one of them gives another key, so a run never continues one of another protocol."""
    protocol = standard["protocol"]
    keys = {key(protocol)}
    for name in protocol:
        for other in (None, "other", 17):
            if protocol[name] != other:
                keys.add(key(protocol | {name: other}))
                assert key(protocol | {name: other}) != key(protocol)
        assert key({k: v for k, v in protocol.items() if k != name}) != key(protocol)
    assert all(protocol[name] for name in ("weights", "templates_hash", "images_hash", "queries", "versions", "config"))


def test_what_a_protocol_depends_on(tmp_path, folder, standard):
    """Weights, words, images: their entries follow what they stand for."""
    clip = tmp_path / "other"
    (clip / "clip").mkdir(parents=True)
    for file in (folder / "clip").iterdir():
        (clip / "clip" / file.name).write_bytes(file.read_bytes())
    weights = load_file(clip / "clip" / "open_clip_model.safetensors")
    weights["visual.proj"] += 0.01
    save_file(weights, clip / "clip" / "open_clip_model.safetensors")
    line = evaluate(tmp_path, "cfg_voc21", settings(folder) | {"clip": str(clip / "clip")})
    assert line["protocol"]["weights"] != standard["protocol"]["weights"]

    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"thing {i}; stuff {i}" for i in range(21)))
    line = evaluate(tmp_path, "cfg_voc21", settings(folder) | {"words": words})
    assert line["protocol"]["queries"] != standard["protocol"]["queries"]
    assert line["changed"]["words"].startswith("words.txt ")

    listing = tmp_path / "data" / tiny_benchmarks.LAYOUTS["cfg_voc21"][2]
    listing.write_text(listing.read_text().splitlines()[0])
    line = evaluate(tmp_path, "cfg_voc21", settings(folder))
    assert line["protocol"]["images_hash"] != standard["protocol"]["images_hash"]
    line = evaluate(tmp_path, "cfg_voc21", settings(folder) | {"templates": "another {}."})
    assert line["protocol"]["templates_hash"] != standard["protocol"]["templates_hash"]


def test_a_standard_run_changes_nothing():
    """The benchmark and the preset as they stand; --set of what stands there anyway is no change either."""
    for given, expected in (
        ([], {}),
        (["short_side=128", "gamma=20", "split=test"], {}),
        (["split=tune", "beta=1.6", "short_side=96"], {"split": "tune", "beta": 1.6, "short_side": 96}),
        (["vfm_layer=3"], {"vfm_layer": 3}),
    ):
        overrides = read_overrides(load_config("scenes"), given, "proxyclip")
        options = eval_script.parse(["--config", "scenes", "--model", "mini", "--device", "cpu"])
        used, standard = (eval_script.plan_of(options, overrides, standard=which) for which in (False, True))
        assert eval_script.changes(overrides, used, standard, None) == expected
    options.precision = "bf16"
    used = eval_script.plan_of(options, read_overrides(load_config("scenes"), [], "proxyclip"))
    overrides = read_overrides(load_config("scenes"), [], "proxyclip")
    assert eval_script.changes(overrides, used, standard, 10) == {"precision": "bfloat16", "limit": 10}
    assert used.dtype == torch.bfloat16


def test_two_names_of_one_configuration_are_one_run(tmp_path, folder, standard):
    line = evaluate(tmp_path, "cfg_voc21", settings(folder))
    assert key(line["protocol"]) == key(standard["protocol"])
    again = evaluate(tmp_path, "voc21", settings(folder), "--resume")
    assert {name: value for name, value in again.items() if value is not None} == line  # found as done before


def test_predictions_of_two_methods_lie_in_two_folders(tmp_path, folder):
    for method in ("proxyclip", "maskclip"):
        evaluate(tmp_path, "cfg_voc20", settings(folder), "--save-predictions", "--show-dir", tmp_path / "show",
                 "--report", tmp_path / "report", "--method", method)  # fmt: skip
    for place in (tmp_path / "out" / "predictions", tmp_path / "show", tmp_path / "report"):
        assert sorted(path.name.split("-")[1] for path in place.iterdir()) == ["MaskCLIP", "ProxyCLIP"]
        assert all(any(path.iterdir()) for path in place.iterdir())
