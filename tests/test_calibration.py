"""calibrate.py: its counts against predictions with each threshold, its inputs, and what it prints."""

import shlex
import sys

import numpy as np
import pytest
import tiny_clip
import tiny_heads
import torch
from PIL import Image

import calibrate
import proxyclip
from configs.calibration import labelled_benchmark
from datasets import scenes
from datasets.folder import LabelledFolder
from proxyclip.errors import InputError, NotFound
from proxyclip.evaluation.calibration import THRESHOLDS, count_thresholds, curves, matrices_of
from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.images import read_image
from proxyclip.vocabulary import with_background

NAMES = ["car", "house", "tree"]


def test_counts_are_those_of_a_prediction_with_each_threshold():
    random, thresholds = np.random.default_rng(0), (0.1, 0.25, 0.3, 0.9)
    counts, slow = 0, [np.zeros((4, 4), np.int64) for _ in thresholds]
    for _ in range(3):
        labels, truth = random.integers(0, 4, (9, 13)), random.integers(-1, 4, (9, 13))
        confidence = random.choice([*np.float32(thresholds), *random.random(8).astype(np.float32)], (9, 13))
        tensors = torch.from_numpy(labels), torch.from_numpy(confidence)
        counts += count_thresholds(*tensors, truth, classes=4, thresholds=torch.tensor(thresholds))
        for matrix, threshold in zip(slow, thresholds, strict=True):
            below = confidence < np.float32(threshold)
            matrix += confusion(np.where(below, 0, labels), truth, 4).numpy()
    assert np.array_equal(matrices_of(counts.numpy()), slow)


@pytest.mark.parametrize("refine", [None, "pamr:steps=2"])
def test_curves_are_those_of_segment_with_each_threshold(refine, monkeypatch):
    model = proxyclip.load("mini", refine=refine)
    batches = model.batches(6)  # two images of nine windows: three batches together, four apart
    monkeypatch.setattr(model, "batches", lambda asked: batches)
    vocabulary, _ = with_background(NAMES, "threshold")
    samples = []
    for seed in (500, 501):
        image, label = scenes.draw(seed)
        samples.append((str(seed), image, np.where(label == 13, -1, label % 4)))
    runs = []
    window_scores = model.window_scores
    model.window_scores = lambda crops, text: runs.append(len(crops)) or window_scores(crops, text)
    found = curves(model, samples, vocabulary, (10.0, 40.0))
    assert runs == 3 * [6]  # one run for all scales and thresholds
    for curve, scale in zip(found, (10.0, 40.0), strict=True):
        model = proxyclip.load("mini", refine=refine, logit_scale=scale)
        for index in (0, 33, 66, 99):
            matrix, threshold = np.zeros((4, 4), np.int64), THRESHOLDS[index]
            for _, image, label in samples:
                labels = model.segment(image, NAMES, background="threshold", threshold=threshold).labels
                matrix += confusion(labels, label, 4).numpy()
            expected = scores(matrix)
            assert curve.scale == scale and curve.thresholds[index] == np.float32(threshold)
            assert curve.miou[index] == expected["mIoU"] and curve.accuracy[index] == expected["aAcc"]
            assert curve.background[index] == expected["per_class"]["IoU"][0]
        assert len(set(curve.miou)) > 5 and curve.miou[curve.best] == curve.miou.max()


def test_refinements_hear_the_name_of_each_image(monkeypatch):
    """Masks from a folder are found by it."""
    model, names = proxyclip.load("mini"), []
    decide = model.decide
    monkeypatch.setattr(model, "decide", lambda *args, rule: names.append(args[2].name) or decide(*args, rule=rule))
    vocabulary, _ = with_background(NAMES, "threshold")
    samples = [(str(seed), image, label % 4) for seed in (500, 501) for image, label in [scenes.draw(seed)]]
    curves(model, samples, vocabulary)
    assert names == ["500", "501"]


def test_without_scored_pixels_there_is_nothing_to_find():
    model = proxyclip.load("mini")
    vocabulary, _ = with_background(NAMES, "threshold")
    with pytest.raises(InputError, match="no pixel that is scored"):
        curves(model, [("a", np.zeros((64, 64, 3), np.uint8), np.full((64, 64), -1))], vocabulary)


def test_a_head_has_no_logit_scale():
    from tiny_head import head

    with pytest.raises(InputError, match="ZegCLIP has no logit scale"):
        curves(head("zegclip"), [], with_background(NAMES, "threshold")[0], (40.0,))


@pytest.fixture
def folders(tmp_path):
    """Two scenes with the classes of NAMES and a background."""
    for number, seed in enumerate((500, 501)):
        image, label = scenes.draw(seed)
        stem = ("one", "a/two")[number]
        for kind in ("images", "labels"):
            (tmp_path / kind / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{stem}{('.png', '.bmp')[number]}")
        mapped = np.zeros(label.shape, np.uint8)
        for index, name in enumerate(NAMES, start=1):
            mapped[label == scenes.CLASSES.index(name)] = index
        mapped[0, 0] = 255
        Image.fromarray(mapped).save(tmp_path / "labels" / f"{stem}.png")
    (tmp_path / "words.txt").write_text("\n".join(NAMES))
    return tmp_path


def test_pairs_of_two_folders(folders):
    pairs = LabelledFolder(folders / "images", folders / "labels", 4)
    assert [item.stem for item in pairs.items] == ["a/two", "one"] and len(pairs) == 2
    for pair in pairs:
        assert pair.label.max() <= 3 and pair.label[0, 0] == -1 and pair.label.shape == pair.image.shape[:2]
    assert np.array_equal(pairs[1].image, scenes.draw(500)[0])


def test_some_classes_of_a_benchmark_and_all_others_as_background():
    chosen, _ = with_background(["house", "car; boat"], "threshold")
    found = labelled_benchmark("scenes", "tune", None, chosen)
    assert found.classes == "house,car; boat" and found.background == "threshold"
    (_, image, label), *_ = found.samples(3)
    _, expected = scenes.draw(found.pairs.items[0].seed)
    names = np.array(scenes.CLASSES)[expected]
    assert np.array_equal(label, np.select([names == "house", np.isin(names, ("car", "boat"))], [1, 2], 0))
    assert found.count(3) == 3 and found.model_options["crop"] == 64


def run(folders, *options) -> None:
    images = ["--images", folders / "images", "--labels", folders / "labels", "--classes", folders / "words.txt"]
    calibrate.main([*map(str, [*images, "--out", folders / "curve.png", *options])])


def test_what_it_prints(folders, capsys):
    run(folders, "--scales", "5,10", "--set", "beta=1.1", "--refine", "pamr:steps=1")
    *lines, best, command = capsys.readouterr().out.strip().splitlines()
    assert lines[0].split() == ["threshold", "mIoU", "background", "pixels"] and 21 <= len(lines) <= 23
    (marked,) = (line for line in lines if line.endswith("best"))
    threshold, miou = marked.split()[:2]
    assert best == f"best: threshold {threshold}, mIoU {miou}; to use it:"
    given = shlex.split(command)
    assert given[:5] == ["python", "segment.py", str(folders / "images"), "--classes", str(folders / "words.txt")]
    assert given[5:11] in (
        ["--refine", "pamr:steps=1", "--set", "beta=1.1", f"logit_scale={scale}", "--background"] for scale in (5, 10)
    )
    assert given[11:] == ["threshold", "--threshold", threshold, "--out", "out"]
    picture = read_image(folders / "curve.png")
    assert picture.shape == (560, 900, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    chosen = given[9].split("=")[1]
    model = proxyclip.load("mini", refine="pamr:steps=1", beta=1.1, logit_scale=float(chosen))
    matrix = np.zeros((4, 4), np.int64)
    for pair in LabelledFolder(folders / "images", folders / "labels", 4):
        result = model.segment(pair.image, NAMES, background="threshold", threshold=float(threshold))
        matrix += confusion(result.labels, pair.label, 4).numpy()
    assert f"{scores(matrix)['mIoU']:.1f}" == miou


def test_with_a_vocabulary_and_a_trained_head(folders, capsys, tmp_path):
    clip = tiny_heads.clip_folder(tmp_path / "clip")
    head = tiny_heads.saved(tmp_path / "head", clip=clip)
    run(folders, "--checkpoint", head, "--clip", clip, "--background", "vocabulary", "--limit", "1")
    command = capsys.readouterr().out
    assert f"--clip {clip} --checkpoint {head} --background vocabulary --threshold" in command


def wrong_size(folders):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folders / "labels" / "one.png")


def wrong_value(folders):
    Image.fromarray(np.full((128, 128), 9, np.uint8)).save(folders / "labels" / "one.png")


def two_images(folders):
    Image.fromarray(tiny_clip.photograph(8, 8)).save(folders / "images" / "one.jpg")


def no_image(folders):
    (folders / "images" / "one.png").unlink()


def no_labels(folders):
    for file in (folders / "labels").rglob("*.png"):
        file.unlink()


def nothing(folders):
    pass


MISTAKES = [
    (wrong_size, [], "have different sizes, 128x128 and 5x5"),
    (wrong_value, [], "contains the value 9, but the class list uses 0 ... 3 or 255 (void)"),
    (two_images, [], ": one.jpg, one.png"),
    (no_image, [], "the label one.png has no image in "),
    (no_labels, [], "labels contains no .png file"),
    (nothing, ["--images", "absent"], "the folder absent does not exist"),
    (nothing, ["--background", "none"], "without a background there is no threshold"),
    (nothing, ["--scales", "a,b"], "--scales must be numbers, as in 20,40,80, not 'a,b'"),
    (nothing, ["--scales", "0"], "--scales must be positive, not 0"),
    (nothing, ["--limit", "0"], "--limit must be at least 1, not 0"),
    (nothing, ["--config", "scenes"], "--config names a benchmark: leave out --images and --labels"),
    (nothing, ["--refine", "pam"], "unknown refinement 'pam'"),
    (nothing, ["--preset", "min"], "unknown preset 'min'"),
]


@pytest.mark.parametrize(("damage", "options", "words"), MISTAKES)
def test_mistakes(damage, options, words, folders, capsys):
    damage(folders)
    with pytest.raises(SystemExit, match="2"):
        run(folders, *options)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if not line.startswith("calibration:")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert not (folders / "curve.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--config scenes", "scenes has no background: choose some of its classes with --classes"),
        ("--config scenes --classes car,plane", "scenes has no class 'plane'"),
        ("--classes car", "name --images, --labels and --classes, or a benchmark with --config"),
    ],
)
def test_mistakes_with_benchmarks(options, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *options.split()])
    with pytest.raises(SystemExit, match="2"):
        calibrate.main()
    assert words in capsys.readouterr().err


def test_missing_folders_are_not_found(tmp_path):
    with pytest.raises(NotFound):
        LabelledFolder(tmp_path, tmp_path / "absent", 3)
