"""The command `segment`: what it writes for images, what it skips, what it says, and how it refuses bad input."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from small_folder import CLASSES, draw_images, files_in, segment_here, state_of

import proxyclip
from proxyclip.command import main as command_line
from proxyclip.command import segment
from proxyclip.folder.stream import Writers

NAMES = ("b.png", "a/c.png", "a/d.jpg")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_images(tmp_path / "photos", NAMES)
    return tmp_path / "photos"


@pytest.fixture
def counted(monkeypatch):
    """The sizes of all images that are segmented."""
    seen, save = [], Writers.save
    monkeypatch.setattr(Writers, "save", lambda self, *pair: seen.append(pair[1].labels.shape) or save(self, *pair))
    return seen


def test_labels_are_those_of_the_library(photos, tmp_path, capsys):
    segment_here("photos", "--out", "out", "--background", "threshold", "--threshold", "0.9")
    model = proxyclip.load("mini", short_side=64, device="cpu")
    assert {"labels/b.png", "labels/a/c.png", "overlays/a/d.jpg", "labels/classes.txt"} <= files_in(tmp_path / "out")
    for name in NAMES:
        expected = model.segment(photos / name, CLASSES, background="threshold", threshold=0.9)
        assert 0.02 < expected.areas()["background"] < 0.98
        written = Image.open((tmp_path / "out" / "labels" / name).with_suffix(".png"))
        np.testing.assert_array_equal(np.asarray(written), expected.labels)
        assert written.mode == "P"
    assert (tmp_path / "out/labels/classes.txt").read_text().split("\n")[:3] == ["background", "sky", "grass"]
    assert "3 of 3 inputs are finished in out" in capsys.readouterr().out


def test_a_second_run_does_only_what_is_missing(photos, tmp_path, counted):
    segment_here("photos", "--out", "out")
    assert len(counted) == 3
    before = state_of(tmp_path / "out")
    (tmp_path / "out/overlays/a/c.jpg").unlink()
    draw_images(photos, ["new/e.png"], height=33)
    counted.clear()
    segment_here("photos", "--out", "out")
    assert sorted(counted) == [(33, 56), (40, 56)]
    after = state_of(tmp_path / "out")
    new = {"overlays/a/c.jpg", "labels/new/e.png", "overlays/new/e.jpg", "labels/classes.txt"}
    assert {name for name in after if after[name] != before.get(name)} == new
    counted.clear()
    segment_here("photos", "--out", "out", "--format", "labels")
    assert counted == []


def test_bad_files_are_listed_and_the_rest_is_done(photos, tmp_path, capsys):
    (photos / "bad.jpg").write_text("<html>")
    (photos / "zero.png").write_bytes(b"")
    (photos / "list.txt").write_text("photos/b.png\nphotos/gone.png\n")
    with pytest.raises(SystemExit) as exit:
        segment_here("photos", "photos/list.txt", "--out", "out")
    assert exit.value.code == 1
    lines = [json.loads(line) for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert {line["input"] for line in lines} == {"photos/bad.jpg", "photos/zero.png", "photos/gone.png"}
    assert "photos/gone.png does not exist" in next(line["problem"] for line in lines if "gone" in line["input"])
    told = capsys.readouterr()
    assert "3 of 6 inputs are finished" in told.out and "3 could not be segmented, see out/failed.jsonl" in told.err
    assert "unsupported format" in told.err
    (photos / "bad.jpg").unlink()
    (photos / "zero.png").unlink()
    segment_here("photos", "--out", "out")
    assert "failed.jsonl" not in files_in(tmp_path / "out")


def test_other_settings_need_another_folder(photos, tmp_path, capsys):
    segment_here("photos", "--out", "out")
    before = state_of(tmp_path / "out")
    for more, differs in (
        (["--background", "threshold"], "classes, names, threshold"),
        (["--refine", "pamr"], "model"),
        (["--method", "maskclip"], "model"),
        (["--clip", "ViT-B-32:random"], "model"),
    ):
        with pytest.raises(SystemExit) as exit:
            segment_here("photos", "--out", "out", *more)
        assert exit.value.code == 2
        assert f"out holds results of other settings ({differs})" in capsys.readouterr().err
    assert state_of(tmp_path / "out") == before


def test_a_dry_run_only_tells(photos, tmp_path, capsys, counted):
    segment_here("photos", "--out", "out", "--dry-run")
    assert not (tmp_path / "out").exists() and not counted
    told = capsys.readouterr().out
    assert "images: 3, videos: 0, of these finished: 0" in told
    assert "photos/a/c.png -> out/labels/a/c.png, out/overlays/a/c.jpg" in told


def test_the_output_may_be_below_the_input(photos, tmp_path):
    segment_here("photos", "--out", "photos/out")
    segment_here("photos", "--out", "photos/out")
    assert len([name for name in files_in(photos) if name.startswith("out/labels/") and name.endswith("png")]) == 3


def test_a_store_takes_and_gives(photos, counted):
    import fsspec

    files = fsspec.filesystem("memory")
    for name in NAMES:
        files.pipe_file(f"/in/{name}", (photos / name).read_bytes())
    segment_here("photos", "--out", "out")
    counted.clear()
    for _ in range(2):
        segment_here("memory://in", "--out", "memory://result")
    assert len(counted) == 3
    for name in ("labels/a/c.png", "overlays/b.jpg", "labels/classes.txt"):
        assert files.cat_file(f"/result/{name}") == (photos.parent / "out" / name).read_bytes()


def test_gathered_formats_hold_every_image(photos, tmp_path):
    (photos / "bad.jpg").write_text("<html>")
    with pytest.raises(SystemExit):
        segment_here("photos", "--out", "out", "--format", "coco", "--format", "yolo")
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["b.png", "a/c.png", "a/d.jpg"]
    assert {"yolo/labels/b.txt", "yolo/data.yaml"} <= files_in(tmp_path / "out")
    first = (tmp_path / "out/coco.json").read_bytes()
    (photos / "bad.jpg").unlink()
    segment_here("photos", "--out", "out", "--format", "coco", "--format", "yolo")  # from the parts
    assert (tmp_path / "out/coco.json").read_bytes() == first


WRONG = {
    "--threshold 0.2": "a threshold needs a background",
    "--background threshold --threshold 2": "must be a probability between 0 and 1",
    "--background threshold --threshold nan": "must be a probability between 0 and 1",
    "--background words": "choose one of none, threshold, vocabulary",
    "--refine palmer": "unknown refinement 'palmer'; did you mean pamr",
    "--refine masks:nowhere": "nowhere",
    "--format cocoa": "unknown format 'cocoa'; did you mean coco",
    "--processes 0": "--processes must be from 1 to 64",
    "--workers -1": "--workers must be from 0 to 64",
    "--frame-step 0": "--frame-step must be from 1",
    "--max-pixels 0": "--max-pixels must be from 1",
    "--batch-windows 0": "batch_windows is 0",
    "--preset minni": "did you mean mini",
    "--method proxiclip": "did you mean proxyclip",
    "--set beta": "write FIELD=VALUE",
    "--set betta=2": "did you mean beta",
    "--set beta=much": "beta must be a finite number",
    "--device gpu": "gpu",
    "nowhere": "input nowhere does not exist",
    "--out photos/b.png": "a file of that name exists",
    "--out nosuch://bucket": "cannot open nosuch://bucket",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_bad_input_is_one_sentence_before_work_starts(photos, tmp_path, capsys, counted, arguments):
    with pytest.raises(SystemExit) as exit:
        segment_here("photos", "--out", "out", *arguments.split())
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and WRONG[arguments] in told
    assert not counted and not (tmp_path / "out/labels").exists()


def test_masks_are_found_by_the_names_of_the_images(photos, tmp_path):
    """One mask over the left half: all its pixels get one label; the outputs keep the folders of the inputs."""
    for name in NAMES:
        path = (tmp_path / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat([[1] * 28 + [0] * 28], 40, 0).astype(np.uint8)).save(path)
    segment_here("photos", "--out", "out", "--format", "labels", "--refine", "masks:masks")
    for name in NAMES:
        labels = np.asarray(Image.open((tmp_path / "out/labels" / name).with_suffix(".png")))
        assert len(np.unique(labels[:, :28])) == 1
    (tmp_path / "masks/a/c.png").unlink()
    with pytest.raises(SystemExit) as exit:
        segment_here("photos", "--out", "other", "--format", "labels", "--refine", "masks:masks")
    assert exit.value.code == 2 and files_in(tmp_path / "other") <= {"segment.json"}


def test_the_installed_command_knows_its_commands(monkeypatch, capsys):
    for arguments, code, words in (
        (["presets"], None, "vitb16-dino"),
        ([], None, "proxyclip segment INPUT"),
        (["segmnt"], 2, "did you mean segment"),
        (["segment"], 2, "the following arguments are required"),
    ):
        monkeypatch.setattr(sys, "argv", ["proxyclip", *arguments])
        if code is None:
            command_line.main()
        else:
            with pytest.raises(SystemExit) as exit:
                command_line.main()
            assert exit.value.code == code
        told = capsys.readouterr()
        assert words in told.out + told.err


def test_without_heads_there_is_no_checkpoint_option(photos, capsys):
    with pytest.raises(SystemExit):
        segment.main(["photos", "--classes", "a", "--out", "out", "--checkpoint", "run"])
    assert "unrecognized arguments: --checkpoint" in capsys.readouterr().err
