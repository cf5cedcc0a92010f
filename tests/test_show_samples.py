"""The contact sheet of training samples."""

import numpy as np
import pytest
from PIL import Image
from tiny_benchmarks import TRAIN_LAYOUTS, build

from datasets.scenes.dataset import PALETTE
from tools.show_samples import BESIDES, main


def run(*arguments):
    main(["--scale", "48", "48", "--crop", "32", *map(str, arguments)])


def has_colour(image, colour):
    """Whether a legend shows it: nothing else is exactly of a class's colour."""
    return (np.asarray(image).reshape(-1, 3) == colour).all(axis=1).sum() > 20


@pytest.mark.parametrize("setting", ["inductive", "transductive", "fully"])
def test_scenes(setting, tmp_path):
    out = tmp_path / "folder" / "sheet.png"
    run("--config", "cfg_scenes.py", "--setting", setting, "--show", 8, "--out", out)
    sheet = Image.open(out)
    assert sheet.width == 6 * 320 + 5 * 8 and sheet.height > 4 * 320 + 16
    legend = sheet.crop((0, 4 * 320 + 16, *sheet.size))
    assert has_colour(legend, PALETTE["sky"])
    unseen, void = (colour for _, colour in BESIDES.values())
    assert has_colour(legend, void) == (setting == "inductive")
    assert has_colour(legend, unseen) == (setting == "transductive")


def test_a_benchmark_on_disk(tmp_path):
    build(tmp_path, "cfg_voc20", [np.resize([1, 16, 0], (20, 30))] * 2, TRAIN_LAYOUTS)
    run("--config", "voc20", "--data-root", tmp_path, "--show", 2, "--out", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width == 2 * 320 + 8


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--config", "scenes", "--show", "0"], "--show must be from 1 to 120, not 0"),
        (["--config", "scenes", "--unseen", "scene"], "--unseen: scenes has no split 'scene'; did you mean scenes"),
        (["--config", "ade20k"], "ade20k has no split into seen and unseen classes; use --setting fully"),
        (["--config", "coco_object", "--setting", "fully"], "coco_object has no split 'train'"),
    ],
)
def test_wrong_arguments(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert sentence in capsys.readouterr().err
