"""Values that no model, memory or file system can take are refused with a sentence before work starts."""

import os

import numpy as np
import pytest
import tiny_clip

import eval as eval_script
from configs.arguments import MOST
from datasets.scenes import contact_sheet
from datasets.scenes.__main__ import main as scenes_main
from proxyclip.backbones import build_clip
from proxyclip.errors import InputError, NotFound, nearest
from proxyclip.files import write_json, write_whole
from proxyclip.loading import plan
from proxyclip.methods._training_free import Options
from proxyclip.options import LARGEST

LONG = "x" * 5000
IMAGE = tiny_clip.photograph(30, 40)


@pytest.fixture(scope="module")
def model():
    return tiny_clip.model(crop=32, stride=16)


@pytest.mark.parametrize("name", ["beta", "gamma", "logit_scale", "short_side", "crop", "multiple", "stride"])
@pytest.mark.parametrize("value", [LARGEST + 1, 10**400])
def test_numbers_whose_products_are_not_finite(name, value):
    with pytest.raises(InputError, match=f"{name} is 1.*; choose a number of at most"):
        plan("mini", **{name: value})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["beta", "gamma", "logit_scale"])
def test_the_largest_numbers_give_finite_scores(name, precision):
    """Also in half precision: the bound is of use only if all that it lets pass is finite."""
    found = plan("mini", **{name: LARGEST}, precision=precision).build()
    assert np.isfinite(found.segment(IMAGE, ["sky", "sea"]).confidence).all()


def test_windows_are_not_padded_to_any_multiple():
    with pytest.raises(InputError, match="multiple is 1025; choose at most 1024"):
        Options(multiple=1025)


def test_a_name_that_is_empty_is_not_the_preset_s():
    for half in ("clip", "vfm"):
        with pytest.raises(InputError, match="unknown"):
            plan("mini", **{half: ""})


@pytest.mark.parametrize("path", [LONG, "a\0b", f"folder/{LONG}/file"])
def test_paths_that_cannot_be(path):
    for chosen in (
        {"checkpoint_clip": path},
        {"checkpoint_vfm": path},
        {"clip": path},
        {"clip": f"ViT-B-16:{path}.pt"},
    ):
        with pytest.raises((InputError, NotFound)):
            plan("mini", **chosen)
    for vfm in (f"dino:{path}", f"sam-vitb:{path}", f"hf:{path}"):
        with pytest.raises((InputError, NotFound)):
            plan("mini", vfm=vfm).build()


def test_a_folder_without_a_clip(tmp_path):
    for used in (build_clip.image_encoder, build_clip.load):
        with pytest.raises(NotFound, match=r"no open_clip_config\.json"):
            used(str(tmp_path))


def test_numpy_s_numbers_are_numbers(model):
    result = model.segment(IMAGE, ["sky", "sea"], threshold=np.float32(0.5), batch_windows=np.int64(2))
    assert result.settings["threshold"] == 0.5
    assert np.array_equal(result.labels, model.segment(IMAGE, ["sky", "sea"], threshold=0.5).labels)


@pytest.mark.parametrize("limit", ["100", None, float("nan"), float("inf"), 0, -1, True])
def test_limits_of_pixels(model, limit):
    with pytest.raises(InputError, match="max_pixels is .*; choose a number of pixels"):
        model.segment(IMAGE, ["sky", "sea"], max_pixels=limit)


def test_wrong_types_are_refused_before_anything_is_written(model, tmp_path):
    result = model.segment(IMAGE, ["sky", "sea"])
    for folder, options in ((None, {}), (3, {}), (tmp_path / "out", {"caption": 3}), (tmp_path / "out", {"stem": 3})):
        with pytest.raises(InputError):
            result.save(folder, **options)
    for alpha in ("0.5", None, float("nan")):
        with pytest.raises(InputError, match="alpha is "):
            result.overlay(alpha=alpha)
    assert not list(tmp_path.iterdir())


def evaluated(tmp_path, *options, capsys) -> str:
    """What eval.py says that must refuse those options before it builds a model."""
    with pytest.raises(SystemExit) as stopped:
        eval_script.main(["--config", "scenes", "--model", "mini", "--workdir", str(tmp_path / "out"), *options])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_where_the_line_goes_is_checked_first(tmp_path, capsys, monkeypatch):
    """A result that was computed must not be lost for a name."""
    monkeypatch.setattr(eval_script, "build", None)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for place in (str(tmp_path), "", "/dev/null", str(tmp_path / "fifo"), str(tmp_path / "file" / "x"), LONG):
        said = evaluated(tmp_path, "--json", place, capsys=capsys)
        assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_nothing_takes_the_place_of_a_device(tmp_path):
    """As root, renaming a file to /dev/stdout would replace it for every program."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: it is not a regular file"):
        write_json(tmp_path / "pipe", {})
    with pytest.raises(InputError, match="it is not a regular file"):
        write_whole(tmp_path, lambda file: None)
    assert (tmp_path / "pipe").is_fifo()


def test_workers_are_not_a_fork_bomb(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(eval_script, "build", None)
    said = evaluated(tmp_path, "--workers", str(MOST["workers"] + 1), capsys=capsys)
    assert said == f"error: --workers must be at most {MOST['workers']}, not {MOST['workers'] + 1}\n"


@pytest.mark.parametrize("size", [-5, 0, 10**7, 1.5])
def test_a_contact_sheet_is_not_made_before_its_size_is_checked(size):
    with pytest.raises(InputError, match="size must be a whole number"):
        contact_sheet(24, 0, size)


def test_a_contact_sheet_checks_its_place_first(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.scenes.__main__.contact_sheet", None)
    with pytest.raises(SystemExit):
        scenes_main(["--out", str(tmp_path)])


def test_known_names_are_listed_once():
    assert nearest("x", ["crop", "crop", "beta"]) == "Known: beta, crop"
