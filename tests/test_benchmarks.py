"""The benchmarks at their smallest: that they run, and their arithmetic against slow and obvious ways."""

import importlib
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_clip

import proxyclip
from benchmarks import gpu, heads, measure, methods
from datasets import scenes
from proxyclip.backbones import build_clip
from proxyclip.evaluation.metrics import confusion

ROOT = Path(__file__).parents[1]


def cells(output: str) -> list[list[str]]:
    """The rows of the Markdown tables in an output."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]


def test_an_evaluation_on_a_device(capsys):
    arguments = "--device cpu --pairs mini --benchmarks voc21 --precisions fp32 --images 2 --workers 0"
    gpu.main(arguments.split())
    titles, _, row = cells(capsys.readouterr().out)
    assert row[:3] == ["mini", "voc21", "fp32"] and len(row) == len(titles)
    assert float(row[3]) > 0 and row[4].endswith("%") and row[5] == "0.01"


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--device", "cuda:99"])
    assert stopped.value.code == 2 and "error: device 'cuda:99'" in capsys.readouterr().err


def test_scores_of_methods(tmp_path, monkeypatch, capsys):
    class Pool:
        """Runs everything here."""

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        map = staticmethod(map)

    costs = itertools.count(1)
    monkeypatch.setattr(methods, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(methods, "in_a_process", lambda *_, **__: {"seconds": next(costs)})
    picture = tmp_path / "methods.png"
    methods.main(["--methods", "proxyclip", "clip", "--limit", "2", "--picture", str(picture)])
    titles, _, *rows = cells(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["CLIP", "ProxyCLIP"] and picture.stat().st_size > 5000  # the worst first
    assert titles[-2:] == ["s an image", "s with PAMR"] and rows[1][-2:] == ["1.00", "2.00"]
    assert float(rows[1][2]) > float(rows[0][2]) + 10 and float(rows[1][6]) > float(rows[1][2])
    methods.main(["--settings", "layer", "--limit", "2"])
    _, _, default, *rows = cells(capsys.readouterr().out)
    assert default[0] == "default" and default[-1] == "–" and all("±" in row[-1] for row in rows)
    methods.main(["--choose", "--methods", "naclip", "--limit", "2"])
    assert len(re.findall(r'^naclip +\d+\.\d\d  \{"std"|^naclip +\d+\.\d\d  \{\}', capsys.readouterr().out, re.M)) == 5


def test_summary_tells_stuff_from_things():
    label = np.arange(24).repeat(10)
    prediction = label.copy()
    prediction[label == scenes.CLASSES.index("cup")] = scenes.CLASSES.index("sun")
    found = methods.summary(np.asarray(confusion(prediction, label, 24)))
    assert found["stuff"] == 100
    assert found["things"] == pytest.approx((13 * 100 + 50) / 15)
    assert found["mIoU"] == pytest.approx((22 * 100 + 50) / 24)


def test_a_difference_and_its_error():
    default = np.stack([np.diag([10, 10])] * 9)
    worse = default.copy()
    worse[::3] = [[10, 0], [5, 5]]  # every third scene loses half of its second class
    matrix = worse.sum(0)
    lost = 100 - 100 * np.mean(np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix)))
    change, error = methods.difference([worse], [default]).replace("−", "-").split(" ± ")
    assert float(change) == pytest.approx(-lost, abs=0.05) and 0 < float(error) < lost
    assert methods.difference([default], [default]) == "+0.0 ± 0.0"


def test_published_settings_are_those_of_the_papers():
    assert methods.published("proxyclip") == {"beta": 1.2, "gamma": 3.0}
    assert methods.published("maskclip") == {}


def test_scores_of_heads(tmp_path, monkeypatch):
    """Trainings and evaluations are commands; a transductive one starts from the inductive one of its seed."""
    commands = []

    def run(options, command):
        commands.append([str(word) for word in command])
        if "--json" in commands[-1]:
            file = Path(commands[-1][commands[-1].index("--json") + 1])
            file.parent.mkdir(parents=True, exist_ok=True)
            values = dict.fromkeys(heads.COLUMNS, float(len(commands)))
            file.write_text(json.dumps({"zero_shot": {"scenes": values}}))

    monkeypatch.setattr(heads, "run", run)
    outputs = []
    monkeypatch.setattr("builtins.print", lambda *texts, **_: outputs.extend(texts))
    heads.main(["--heads", "otseg", "--settings", "transductive", "--seeds", "3", "--workdir", str(tmp_path)])
    trained = [command for command in commands if command[0] == "train.py"]
    assert [command[2] for command in trained] == ["otseg_scenes_inductive", "otseg_scenes_transductive"]
    assert trained[1][-2:] == ["--init-from", str(tmp_path / "otseg_inductive_3")]
    assert [row[0] for row in cells(outputs[-1])][2:] == ["maskclip", "proxyclip", "otseg, transductive"]
    count = len(commands)
    heads.main(["--heads", "otseg", "--settings", "inductive", "--seeds", "3", "--workdir", str(tmp_path)])
    assert [command[0] for command in commands[count:]].count("eval.py") <= 1  # what is complete is not run again


def test_folders():
    run = [sys.executable, "benchmarks/folder.py", "--images", "2"]
    output = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    _, _, loop, command = cells(output)
    assert loop[:3:2] == ["loop", "1.00×"] and command[0] == "segment" and "MiB" in command[-1]


def test_iterations_of_a_head(monkeypatch, capsys):
    """With a tiny CLIP, and in this process."""
    monkeypatch.setattr(build_clip, "load", lambda name: tiny_clip.clip(vision={"layers": 12}))
    monkeypatch.setattr(measure, "in_a_process", lambda script, job, folder, threads: heads.one(job))
    heads.main(["--iteration", "zegclip", "--size", "32", "--batch", "2", "--rounds", "1"])
    titles, _, plain, here, half = cells(capsys.readouterr().out)
    assert plain[:4:2] == ["plain", "1.00×"] and here[-2:] == plain[-2:] != half[-2:]
    assert titles[-2:] == ["loss", "norm of the gradients"]


def test_speed_of_one_image(monkeypatch, capsys):
    """With the embedded models, and in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    speed, load = importlib.import_module("speed"), proxyclip.load
    monkeypatch.setattr(
        proxyclip, "load", lambda method, precision, **_: load("mini", method=method, precision=precision)
    )
    monkeypatch.setattr(sys.modules["measure"], "in_a_process", lambda script, job, folder, threads: speed.one(job))
    monkeypatch.setattr(speed, "TASKS", {"small": ((30, 40), 5, (64, 85))})
    monkeypatch.setattr(sys, "argv", ["speed.py", "--tasks", "small", "--precisions", "fp32", "--rounds", "1"])
    speed.main()
    titles, _, *rows = cells(capsys.readouterr().out)
    assert [row[0] for row in rows] == [f"{name}, 40×30, 5 classes" for name in ("proxyclip",) * 2 + ("maskclip",) * 2]
    assert [row[1] for row in rows] == ["direct", "fp32"] * 2 and all(len(row) == len(titles) for row in rows)
