"""The doctor says which files are there, names the first bad one, what to download and which command to run."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_benchmarks import LAYOUTS, build

from configs.load import load_config
from datasets.examine import examine, spread
from datasets.segmentation import SegmentationData, Split
from doctor import main
from proxyclip.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]


def two_are_enough(data: SegmentationData) -> SegmentationData:
    """The same benchmark, complete with two pairs."""
    return replace(data, splits={"val": replace(data.splits["val"], count=(2,))})


def tiny(config: str, root: Path) -> tuple:
    """A benchmark of two pairs on disk, and its data: one pixel in four is of class 1, the others are of class 0."""
    data = two_are_enough(load_config(config).data)
    label = np.full((4, 8), int(data.zero_is_void))
    label[0] += 1
    return data, build(root, config, [label, label])


@pytest.mark.parametrize("config", sorted(LAYOUTS))
def test_ok(config, tmp_path):
    data, _ = tiny(config, tmp_path)
    diagnosis = examine(data, tmp_path)
    assert diagnosis.state == "ok", diagnosis
    files, pixels = diagnosis.lines
    assert files == "val: 2 images and 2 labels; expected: 2"
    assert pixels.startswith(f"pixels: {data.classes[0]} 75.0%, {data.classes[1]} 25.0%; {len(data.classes) - 2} of")
    assert str(tmp_path / data.folder) in str(diagnosis)


def test_void_is_part_of_the_histogram(tmp_path):
    label = np.full((4, 8), 255)
    label[0] = 3
    build(tmp_path, "cfg_voc21", [label, label])
    diagnosis = examine(load_config("voc21").data, tmp_path)
    assert "pixels: void 75.0%, bird 25.0%; 20 of 21 classes not in the sample" in diagnosis.lines


def test_too_few_files(tmp_path):
    tiny("cfg_voc20", tmp_path)
    diagnosis = examine(load_config("voc20").data, tmp_path)
    assert diagnosis.state == "invalid"
    assert "2 pairs, not 1449" in str(diagnosis) and "download: VOCtrainval" in str(diagnosis)


def test_nothing_there(tmp_path):
    diagnosis = examine(load_config("voc20").data, tmp_path)
    assert diagnosis.state == "missing"
    assert "VOCtrainval_11-May-2012.tar" in str(diagnosis) and "--data-root" in str(diagnosis)


def test_images_without_labels_are_still_to_be_converted(tmp_path):
    data, pairs = tiny("cfg_city_scapes", tmp_path)
    for _, _, label in pairs:
        label.unlink()
    diagnosis = examine(data, tmp_path)
    assert diagnosis.state == "missing"
    assert "val: 2 images and 0 labels; expected: 2" in diagnosis.lines
    assert "2 files not found, the first: " + str(pairs[0][2]) in diagnosis.lines
    assert diagnosis.lines[-1].endswith("run: python -m datasets.prepare cityscapes")


@pytest.mark.parametrize(
    "harm, sentence",
    [
        (lambda image, label: label.unlink(), "1 files not found, the first: {label}"),
        (lambda image, label: image.unlink(), "1 files not found, the first: {image}"),
        (lambda image, label: image.write_bytes(image.read_bytes()[:300]), "1 of 2 sampled pairs cannot be used, the"),
        (lambda image, label: Image.new("L", (8, 4), 77).save(label), "{label} contains the value 77"),
        (lambda image, label: Image.new("RGB", (8, 4)).save(label), "{label} has mode RGB"),
        (lambda image, label: Image.new("RGB", (9, 4)).save(image), "differ from their label in size: {image} 9x4, la"),
    ],
    ids=["no label", "no image", "truncated", "value", "RGB", "size"],
)
def test_invalid(harm, sentence, tmp_path):
    data, pairs = tiny("cfg_voc20", tmp_path)
    _, image, label = pairs[1]
    harm(image, label)
    diagnosis = examine(data, tmp_path)
    assert diagnosis.state == "invalid"
    assert sentence.format(image=image, label=label) in str(diagnosis)
    assert diagnosis.lines[-1].startswith("download: ")


def test_empty_split_file(tmp_path):
    data, _ = tiny("cfg_voc20", tmp_path)
    (tmp_path / LAYOUTS["cfg_voc20"][2]).write_text("")
    diagnosis = examine(data, tmp_path)
    assert diagnosis.state == "invalid" and "lists no image" in str(diagnosis)


def test_the_sample_is_spread():
    assert spread(list(range(100)), 5) == [0, 24, 49, 74, 99]
    assert spread(list(range(3)), 5) == [0, 1, 2]
    assert spread([], 5) == []


MINE = """
from dataclasses import replace
from configs.base import EvalConfig
from configs.cfg_voc20 import VOC20
config = EvalConfig(data=replace(VOC20, name="mine", splits={"val": replace(VOC20.splits["val"], count=(2,))}))
"""


def test_exit_codes(tmp_path, capsys):
    root = ["--data-root", str(tmp_path)]
    (tmp_path / "cfg_mine.py").write_text(MINE)
    mine = [str(tmp_path / "cfg_mine.py"), *root]
    assert main(root) == 0  # nothing there, nothing asked for
    assert f"data root {tmp_path}: 11 missing" in capsys.readouterr().out
    assert main(mine) == 1
    _, pairs = tiny("cfg_voc20", tmp_path)
    assert main(mine) == 0
    assert f"data root {tmp_path}: 1 ok" in capsys.readouterr().out
    pairs[0][2].unlink()
    assert main(mine) == 1
    assert main(root) == 1
    with pytest.raises(SystemExit) as ended:
        main(["vok20", *root])
    assert ended.value.code == 2
    assert "did you mean" in capsys.readouterr().err


def test_downloads_of_what_is_missing_are_printed(tmp_path, capsys):
    assert main(["context59", "--data-root", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "download: VOCtrainval_03-May-2010.tar (free, md5 da459979d0c395079b5c75ee67908abb) from http" in printed
    assert "trainval_merged.json (free" in printed and "put it in VOCdevkit/VOC2010 below the data root" in printed
    assert "run: python -m datasets.prepare context\n" in printed
    main(["voc20", "--data-root", str(tmp_path)])
    assert "benchmark.tgz" not in capsys.readouterr().out
    main(["voc20", "--data-root", str(tmp_path), "--split", "train"])
    assert "download: benchmark.tgz" in capsys.readouterr().out
    main(["city_scapes", "--data-root", str(tmp_path)])
    assert "(registration, 11 GB) from https://www.cityscapes-dataset.com/" in capsys.readouterr().out


def test_a_source_of_ones_own_is_printed(tmp_path):
    data = SegmentationData("d", "d", ("a",), {"val": Split("{}.jpg", "{}.png")}, source="ask a friend")
    assert "download: ask a friend" in examine(data, tmp_path).lines
    assert "ask a friend" in examine(data, tmp_path).lines[0]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["voc20", "--split", "vall"], "voc20: no split 'vall'; did you mean val"),
        (["--split", "vall"], "no split 'vall'; did you mean val"),
        (["voc20", "context459", "--split", "train"], "context459: no split 'train'"),
        (["scenes", "--split", "val"], "scenes: no split 'val'; Known: test, train, tune"),
        (["--sample", "-1"], "--sample must be 0 or more, not -1"),
    ],
)
def test_a_split_that_does_not_exist_is_an_error(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--data-root", str(tmp_path)])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_split_that_some_have(tmp_path, capsys):
    assert main(["--split", "train", "--data-root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "context459: no split 'train', only val" in printed and "benchmark.tgz" in printed
    with pytest.raises(InputError, match="voc20 has no split 'vall'"):
        examine(load_config("voc20").data, tmp_path, "vall")


@pytest.mark.parametrize("how", [[str(REPOSITORY / "doctor.py")]])
def test_as_a_script(how, tmp_path):
    where = tmp_path if how[0].endswith(".py") else REPOSITORY
    command = [sys.executable, *how, "--data-root", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=where)
    assert result.returncode == 0 and not result.stderr
    names = [line.partition(":")[0] for line in result.stdout.splitlines() if line[:1].strip()]
    assert {"ade847", "coco_object", "context459", "voc20b", "voc21"} <= set(names)
