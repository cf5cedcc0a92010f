"""The synthetic scenes as a dataset like any other: for eval.py, eval_all.py and the doctor, without a file on disk."""

import json
import pickle

import numpy as np
import pytest

import doctor
import eval as eval_script
import eval_all
from configs.load import load_config
from datasets import scenes
from datasets.scenes.dataset import PALETTE, TRAINING, SyntheticScenes
from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, scores, seen_unseen


def test_a_split_is_the_scenes_of_its_seeds():
    data = SyntheticScenes(size=64)
    samples = data.open(split="tune")
    assert len(samples) == 200 == len(samples.items)
    stem, image, label = pickle.loads(pickle.dumps(samples))[3]
    expected = scenes.draw(503, 64)
    assert stem == samples.items[3].stem == "scene-000503"
    assert np.array_equal(image, expected[0]) and np.array_equal(label, expected[1])
    assert label.dtype == np.int32


def test_the_splits_do_not_meet():
    splits = SyntheticScenes().splits
    assert len(set().union(*splits.values())) == sum(map(len, splits.values())) == 500 + 200 + len(TRAINING)


def test_an_unknown_split_is_named():
    with pytest.raises(InputError, match="scenes has no split 'val'; Known: test, train, tune"):
        SyntheticScenes().open(split="val")


def test_every_class_has_a_colour_of_its_own():
    data = SyntheticScenes()
    assert tuple(PALETTE) == data.classes and len(set(data.colours)) == len(data.classes) == 24
    colours = np.array(data.colours, float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1000 * np.eye(len(colours))
    assert apart.min() > 30


def test_seen_and_unseen():
    assert load_config("scenes").data.unseen == {"scenes": scenes.UNSEEN}
    assert set(scenes.UNSEEN) == {"snow", "road", "boat", "fish", "mushroom", "umbrella", "cloud"}


def test_eval_scores_what_the_model_says(tmp_path):
    import proxyclip

    options = ["--config", "cfg_scenes.py", "--model", "mini", "--limit", "3", "--device", "cpu", "--workers", "0"]
    eval_script.main([*options, "--workdir", str(tmp_path), "--report", str(tmp_path / "report")])
    run = json.loads((tmp_path / "results.jsonl").read_text())
    matrix = np.zeros((24, 24), np.int64)
    for image, label in map(scenes.draw, range(3)):
        labels = proxyclip.load("mini", device="cpu").segment(image, scenes.CLASSES).labels
        matrix += confusion(labels, label, 24).numpy()
    assert run["mIoU"] == pytest.approx(scores(matrix)["mIoU"], abs=1e-9)
    assert (run["images"], run["clip"], run["vfm"]) == (3, "mini-clip", "mini-vfm")
    assert run["zero_shot"]["scenes"] == pytest.approx(seen_unseen(matrix, map(scenes.CLASSES.index, scenes.UNSEEN)))
    assert len(list((tmp_path / "report").rglob("report.html"))) == 1


def planned(*arguments):
    return [(task.model, task.method, task.config.stem) for task in eval_all.tasks_of(eval_all.parse(arguments))]


def test_eval_all_runs_the_embedded_pair_on_the_scenes_only():
    tasks = planned()
    assert ("mini", "proxyclip", "cfg_scenes") in tasks and ("mini", "proxyclip", "cfg_voc20") not in tasks
    assert ("vitb16-dino", "proxyclip", "cfg_voc20") in tasks
    assert ("vitb16-dino", "proxyclip", "cfg_scenes") not in tasks
    assert planned("--models", "mini", "--configs", "cfg_voc20") == [("mini", "proxyclip", "cfg_voc20")]
    assert planned("--models", "mini", "--configs", "scenes", "cfg_scenes.py") == [("mini", "proxyclip", "cfg_scenes")]


def test_the_doctor_finds_nothing_to_fix(capsys):
    assert doctor.main(["scenes"]) == 0
    assert "scenes: ok" in capsys.readouterr().out


def test_a_failed_run_stands_where_its_scores_will(tmp_path, monkeypatch):
    """Under the names of a run that succeeds, so that the table has one row for both."""
    monkeypatch.setattr(eval_all, "watched", lambda command: (2, "no room"))
    with pytest.raises(SystemExit, match="1"):
        eval_all.main(
            [
                "--models",
                "mini",
                "--methods",
                "proxyclip",
                "maskclip",
                "--configs",
                "cfg_scenes",
                "--workdir",
                str(tmp_path),
            ]
        )
    runs = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(run["model"], run["clip"], run["vfm"], run["failed"]) for run in runs] == [
        ("ProxyCLIP", "mini-clip", "mini-vfm", "no room"),
        ("MaskCLIP", "mini-clip", None, "no room"),
    ]
