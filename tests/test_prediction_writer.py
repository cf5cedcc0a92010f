"""Where predictions are written: apart from those of other runs, and never outside their folder."""

import numpy as np
import pytest
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.evaluation.loop import LabelledImage
from proxyclip.evaluation.predictions import PredictionWriter, png_path, run_name


def test_a_run_s_name():
    name = run_name("voc20", "ProxyCLIP", "ViT-B-16:openai", "dino-vitb8", {"crop": 336})
    assert name.startswith("voc20-ProxyCLIP-ViT-B-16_openai-dino-vitb8-")
    assert name == run_name("voc20", "ProxyCLIP", "ViT-B-16:openai", "dino-vitb8", {"crop": 336})
    assert run_name("voc20", "CLIP", "/models/mine.pt", None, {}).startswith("voc20-CLIP-mine.pt-")


def test_different_runs_have_different_names():
    runs = [("a", "b", "c", "d", {}), ("x", "b", "c", "d", {}), ("a", "x", "c", "d", {}), ("a", "b", "x", "d", {}),
            ("a", "b", "c", "x", {}), ("a", "b", "c", "d", {"crop": 1}), ("a", "b", "c", "d", {"crop": 2})]  # fmt: skip
    assert len({run_name(*run) for run in runs}) == len(runs)
    assert run_name("x" * 300, "m", "a", None, {"crop": 1}) != run_name("x" * 300, "m", "a", None, {"crop": 2})


@pytest.mark.parametrize("dataset", ["../x", "ü" * 300, ".hidden", "a/b\\c\0d", "\ud800", "=1+1"])
def test_any_name_is_one_safe_folder(dataset):
    name = run_name(dataset, "ProxyCLIP", "/models/clip.pt", None, {})
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert len(name) <= 200 and not name.startswith((".", "-"))


@pytest.mark.parametrize("stem", ["2007_000033", "frankfurt/frankfurt_000000_000294", "ü 日本", ".hidden", "a.b"])
def test_usual_stems_are_file_names(stem, tmp_path):
    assert png_path(tmp_path, stem) == tmp_path / f"{stem}.png"


UNUSUAL = ["..", "../x", "a/../../x", "/etc/x", "", ".", "a//b", "x" * 256, "日" * 200, "y" * 252 + "/b", "a\0b",
           "a\nb", "a\\b", "\ud800", "C:x"]  # fmt: skip


def test_unusual_stems_stay_inside_and_apart(tmp_path):
    paths = [png_path(tmp_path / "run", stem) for stem in UNUSUAL]
    writer = PredictionWriter(("a", "b"), ((0, 0, 0), (1, 1, 1)), predictions=tmp_path / "run")
    for index, stem in enumerate(UNUSUAL):
        writer(LabelledImage(stem), np.full((2, 3), index))
    assert sorted(paths) == sorted((tmp_path / "run").rglob("*.png"))
    assert [Image.open(path).getpixel((0, 0)) for path in paths] == list(range(len(UNUSUAL)))
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_file_in_a_folder_s_place_is_one_sentence(tmp_path):
    (tmp_path / "a").touch()
    writer = PredictionWriter(("a", "b"), ((0, 0, 0), (1, 1, 1)), predictions=tmp_path)
    with pytest.raises(InputError, match="^cannot create the folder .*/a: "):
        writer(LabelledImage("a/b"), np.zeros((2, 3), int))
