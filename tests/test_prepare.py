"""Each converter, on a miniature of the raw download, makes what its benchmark reads; a stopped one continues."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.load import load_config
from datasets import cvt_coco_object
from datasets.label_map import VOID
from datasets.prepare import ade847, coco_stuff, context, context459, matlab, tasks, voc_aug
from datasets.prepare.__main__ import NAMES, main, prepare
from proxyclip.errors import InputError, NotFound

REPOSITORY = Path(__file__).resolve().parents[1]
RANDOM = np.random.default_rng(0)


def save(path: Path, array) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array, np.uint8)
    Image.fromarray(array).save(path)
    return array


def photo(path: Path, height=4, width=6) -> np.ndarray:
    return save(path, RANDOM.integers(0, 256, (height, width, 3)))


def files_below(folder: Path) -> dict[str, tuple]:
    """Every file with what it holds and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def raw_cityscapes(raw: Path) -> np.ndarray:
    stored = np.resize([0, 1, 7, 8, 9, 10, 11, 12, 26, 29, 30, 33, 34, 255], (4, 6))
    for split, city in (("val", "lindau"), ("val", "munster"), ("train", "bremen"), ("test", "bonn")):
        stem = f"{city}_000000_000019"
        save(raw / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", stored)
        save(raw / f"gtFine/{split}/{city}/{stem}_gtFine_color.png", stored)
        photo(raw / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
    return stored


def test_cityscapes(tmp_path):
    stored = raw_cityscapes(tmp_path / "raw")
    prepare("cityscapes", tmp_path / "raw", tmp_path)
    data = load_config("city_scapes").data
    meaning = {7: 0, 8: 1, 11: 2, 12: 3, 26: 13, 33: 18}
    expected = np.vectorize(lambda value: meaning.get(value, VOID))(stored)
    for split, count in (("val", 2), ("train", 1)):
        folder = data.open(tmp_path, split)
        assert len(folder) == count
        for sample in folder:
            assert np.array_equal(sample.label, expected)
            assert sample.image.shape == (4, 6, 3)
        assert folder.items[0].image.is_symlink()
    assert not (tmp_path / "cityscapes/gtFine/test").exists()


def test_in_place(tmp_path):
    raw_cityscapes(tmp_path / "cityscapes")
    prepare("cityscapes", root=tmp_path)
    folder = load_config("city_scapes").data.open(tmp_path)
    assert len(folder) == 2 and not folder.items[0].image.is_symlink()


# Raw value -> label, around each of the 11 values that do not occur.
STUFF = {0: 0, 10: 10, 12: 11, 24: 23, 26: 24, 27: 25, 30: 26, 43: 39, 45: 40, 64: 59, 66: 60, 69: 61, 71: 62, 81: 72}
STUFF |= {83: 73, 89: 79, 91: 80, 92: 81, 181: 170}
OBJECT = {raw: label + 1 for raw, label in STUFF.items() if raw < 91}


def raw_coco(raw: Path) -> np.ndarray:
    stored = np.resize([*STUFF, 11, 28, 29, 68, 90, 182, 255], (5, 7))
    for split, stems in (("val2017", ("000000000139", "000000000285")), ("train2017", ("000000000009",))):
        for stem in stems:
            save(raw / f"annotations/{split}/{stem}.png", stored)
            photo(raw / f"images/{split}/{stem}.jpg", 5, 7)
    return stored


@pytest.mark.parametrize(
    "name, config, meaning, rest",
    [("coco_stuff", "coco_stuff164k", STUFF, VOID), ("coco_object", "coco_object", OBJECT, 0)],
)
def test_coco(name, config, meaning, rest, tmp_path):
    stored = raw_coco(tmp_path / "coco_stuff164k")
    prepare(name, root=tmp_path)
    folder = load_config(config).data.open(tmp_path)
    expected = np.vectorize(lambda value: meaning.get(value, rest))(stored)
    assert len(folder) == 2
    assert all(np.array_equal(sample.label, expected) for sample in folder)


def test_coco_stuff_has_171_labels():
    assert sorted(coco_stuff.LABELS.values()) == list(range(171))
    assert coco_stuff.TABLE[list(coco_stuff.NEVER)].tolist() == [255] * 11


def test_coco_object_reads_a_converted_coco_stuff(tmp_path):
    raw_coco(tmp_path / "coco_stuff164k")
    prepare("coco_stuff", root=tmp_path)
    prepare("coco_object", root=tmp_path)
    assert len(load_config("coco_object").data.open(tmp_path)) == 2


@pytest.mark.parametrize("how", [["datasets/cvt_coco_object.py"], ["-m", "datasets.cvt_coco_object"]])
def test_cvt_coco_object_as_a_script(how, tmp_path):
    raw_coco(tmp_path / "stuff")
    out = tmp_path / "coco_object"
    command = [sys.executable, *how, str(tmp_path / "stuff"), "-o", str(out), "--processes", "2"]
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    assert len(load_config("coco_object").data.open(tmp_path)) == 2
    assert (out / "annotations/train2017/000000000009_instanceTrainIds.png").is_file()
    assert (out / "images/val2017/000000000139.jpg").is_symlink()


def test_cvt_coco_object_without_input(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cvt_coco_object.main([str(tmp_path), "-o", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "unpack stuffthingmaps_trainval2017.zip in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# A 7 x 9 mask. Its compressed counts, and those below, were written by pycocotools.
MASK = ["000000000", "011000000", "011000010", "011001111", "011000010", "011000000", "000000001"]
COMPRESSED = "8520`0LD0O20NM0"


def as_mask(rows) -> np.ndarray:
    return np.array([[cell == "1" for cell in row] for row in rows])


def test_compressed_run_lengths():
    assert np.array_equal(context.decode({"size": [7, 9], "counts": COMPRESSED}), as_mask(MASK))
    assert context.decode({"size": [300, 400], "counts": "0PVe3"}).all()
    lines = np.zeros((300, 400), bool)
    lines[10:290, 200] = lines[5:100, 201] = True
    assert np.array_equal(context.decode({"size": [300, 400], "counts": "Zcj1h8?WJQVj1"}), lines)


def test_run_lengths_as_a_list():
    mask = context.decode({"size": [2, 3], "counts": [1, 2, 2, 1]})
    assert np.array_equal(mask, [[False, True, False], [True, False, True]])


def raw_context(raw: Path, **changes) -> np.ndarray:
    """Two validation images and a training image; `changes` go into the first annotation. Returns the first label."""
    raw.mkdir(parents=True, exist_ok=True)
    stems = {1: ("2008_000002", "val"), 2: ("2008_000003", "train"), 3: ("2008_000007", "val")}
    images = [
        {"image_id": key, "file_name": f"{stem}.jpg", "phase": phase, "height": 7, "width": 9}
        for key, (stem, phase) in stems.items()
    ]
    mask = {"size": [7, 9], "counts": COMPRESSED}
    corner = {"size": [7, 9], "counts": [0, 9, 54]}  # the first column and two pixels of the second one
    annotations = [
        {"image_id": 1, "category_id": 458, "segmentation": mask, **changes},
        {"image_id": 2, "category_id": 2, "segmentation": mask},
        {"image_id": 1, "category_id": 9, "segmentation": corner},
    ]
    (raw / "trainval_merged.json").write_text(json.dumps({"images": images, "annos_segmentation": annotations}))
    for stem, _ in stems.values():
        photo(raw / "JPEGImages" / f"{stem}.jpg", 7, 9)
    label = np.where(as_mask(MASK), 59, 0)
    label[:, 0] = label[:2, 1] = 2
    return label


def test_context(tmp_path):
    label = raw_context(tmp_path / "raw")
    prepare("context", tmp_path / "raw", tmp_path)
    folder = load_config("context60").data.open(tmp_path)
    assert [item.stem for item in folder.items] == ["2008_000002", "2008_000007"]
    assert np.array_equal(folder[0].label, label)
    assert not folder[1].label.any()
    assert np.array_equal(load_config("context59").data.open(tmp_path)[0].label, label - 1)
    assert (load_config("context59").data.open(tmp_path, "train")[0].label == 0).sum() == as_mask(MASK).sum()


def test_context_has_sixty_categories():
    assert len(set(context.CATEGORIES)) == 60 and list(context.CATEGORIES) == sorted(context.CATEGORIES)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"category_id": 1}, r"2008_000002\.jpg: category 1 is not one of the 60"),
        ({"segmentation": {"size": [9, 7], "counts": COMPRESSED}}, r"2008_000002\.jpg: a mask has the size \(9, 7\)"),
        *(
            ({"segmentation": rle}, r"2008_000002\.jpg: a mask cannot be decoded")
            for rle in (
                {},
                {"size": [7, 9], "counts": [5]},
                {"size": [7, 9], "counts": [-1, 32, 32]},
                {"size": [7, 9], "counts": [2**62, 2**62, 2**62, 2**62 + 63]},
                {"size": [7, 9], "counts": [63.0]},
                {"size": [7, 9], "counts": None},
                {"size": [7, 9], "counts": ""},
                {"size": [7, 9], "counts": "\xe4"},
                {"size": "79", "counts": COMPRESSED},
                {"size": [7], "counts": COMPRESSED},
            )
        ),
    ],
)
def test_context_with_a_bad_annotation(change, sentence, tmp_path):
    raw_context(tmp_path / "raw", **change)
    with pytest.raises(InputError, match=sentence):
        prepare("context", tmp_path / "raw", tmp_path)


def harmed(raw: Path, harm) -> Path:
    """The annotation file of `raw_context` after `harm` has changed what it holds."""
    raw_context(raw)
    path = raw / "trainval_merged.json"
    content = json.loads(path.read_text())
    harm(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content, sentence",
    [
        ('{"images": [', "is not complete"),
        ("[" * 100_000, "is not complete"),
        ("{}", "is not the annotation file of Pascal in Detail"),
        ("[]", "is not the annotation file of Pascal in Detail"),
        ("null", "is not the annotation file of Pascal in Detail"),
        (b"\xff\xfe{", "is not complete"),
    ],
    ids=["cut", "deep", "empty", "list", "null", "not UTF-8"],
)
def test_context_with_a_bad_file(content, sentence, tmp_path):
    path = tmp_path / "trainval_merged.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"trainval_merged\.json {sentence}"):
        prepare("context", tmp_path, tmp_path)


@pytest.mark.parametrize(
    "key, field, value, sentence",
    [
        ("images", None, None, "images must be a list, not NoneType"),
        ("annos_segmentation", None, {}, "annos_segmentation must be a list, not dict"),
        ("images", 0, None, "entry 0 of images has no image_id of type int"),
        ("images", "image_id", "1", "entry 0 of images has no image_id of type int"),
        ("images", "image_id", [1], "entry 0 of images has no image_id of type int"),
        ("images", "file_name", None, "entry 0 of images has no file_name of type str"),
        ("images", "height", True, "entry 0 of images has no height of type int"),
        ("images", "height", -7, "invalid size of -7x9 pixels"),
        ("images", "width", 10**12, "invalid size of 7x1000000000000 pixels"),
        ("images", "file_name", "../2008_000002.jpg", "the file_name '../2008_000002.jpg' is not a plain name"),
        ("images", "file_name", "..\\\\a.jpg", "is not a plain name"),
        ("images", "file_name", "/a.jpg", "the file_name '/a.jpg' is not a plain name"),
        ("images", "file_name", "2008_000007.png", "is not a plain name, or is there twice"),
        ("images", "phase", "../../../escaped", "the phase '../../../escaped' is not a plain name"),
        ("images", "phase", "", "the phase '' is not a plain name"),
        ("annos_segmentation", "segmentation", [[1, 2]], "no segmentation of type dict"),
        ("annos_segmentation", "category_id", {}, "no category_id of type int"),
    ],
)
def test_context_with_odd_entries(key, field, value, sentence, tmp_path):
    def harm(content):
        if field is None:
            content[key] = value
        elif field == 0:
            content[key][0] = value
        else:
            content[key][0][field] = value

    raw, out = tmp_path / "a/b/raw", tmp_path / "a/b/out"
    path = harmed(raw, harm)
    with pytest.raises(InputError) as caught:
        prepare("context", raw, out)
    assert str(path) in str(caught.value) and sentence in str(caught.value)
    assert [file for file in tmp_path.rglob("*") if not file.is_relative_to(raw)] == [tmp_path / "a", tmp_path / "a/b"]


@pytest.mark.parametrize("target", ["../escaped", "labels/../../escaped"])
def test_no_converter_writes_outside_its_folder(target, tmp_path):
    with pytest.raises(InputError, match="would be written outside"):
        tasks.run([tasks.Task(tasks.write_lines, ["a"], tmp_path / "out" / target)], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_context459(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    label = raw_context(tmp_path / "VOCdevkit/VOC2010")
    prepare("context", root=tmp_path)
    raw = tmp_path / "unpacked" / "trainval"
    raw.mkdir(parents=True)
    stored = np.resize(np.array([1, 2, 256, 459], np.uint16), label.shape)
    scipy_io.savemat(raw / "2008_000002.mat", {"LabelMap": stored}, do_compression=True)
    scipy_io.savemat(raw / "2008_000007.mat", {"LabelMap": np.where(stored == 2, 0, stored)})
    prepare("context459", tmp_path / "unpacked", tmp_path)
    folder = load_config("context459").data.open(tmp_path)
    assert np.array_equal(folder[0].label, stored.astype(int) - 1)
    assert np.array_equal(folder[1].label == VOID, stored == 2)


def test_context459_needs_the_split(tmp_path):
    with pytest.raises(NotFound, match="val.txt does not exist; run python -m datasets.prepare context first"):
        prepare("context459", root=tmp_path)


def raw_voc(root: Path) -> None:
    """VOC 2012 with a training and a validation image, and the three photographs that SBD labels."""
    voc = root / "VOCdevkit/VOC2012"
    for stem in ("2007_000032", "2007_000033", "2008_000008"):
        photo(voc / f"JPEGImages/{stem}.jpg")
    for phase, stem, value in (("train", "2007_000032", 7), ("val", "2007_000033", 8)):
        save(voc / f"SegmentationClass/{stem}.png", np.full((4, 6), value))
        (voc / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (voc / f"ImageSets/Segmentation/{phase}.txt").write_text(f"{stem}\n")


def test_voc_aug(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    raw_voc(tmp_path)
    raw = tmp_path / "sbd/benchmark_RELEASE/dataset"
    (raw / "cls").mkdir(parents=True)
    stored = np.resize(np.array([0, 1, 20], np.uint8), (4, 6))
    for stem in ("2007_000032", "2007_000033", "2008_000008"):
        scipy_io.savemat(raw / f"cls/{stem}.mat", {"GTcls": {"Segmentation": stored, "Boundaries": 0}})
    (raw / "train.txt").write_text("2008_000008\n2007_000033\n")
    (raw / "val.txt").write_text("2007_000032\n")
    prepare("voc_aug", tmp_path / "sbd", tmp_path)
    folder = load_config("voc20").data.open(tmp_path, "train")
    assert [item.stem for item in folder.items] == ["2007_000032", "2008_000008"]  # no validation image
    assert (folder[0].label == 6).all()  # VOC's own label
    assert np.array_equal(folder[1].label, stored.astype(int) - 1)


def test_mat_file_that_is_not_whole(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    path = tmp_path / "a.mat"
    for compressed in (False, True):
        scipy_io.savemat(path, {"LabelMap": RANDOM.integers(0, 9, (8, 8), np.uint16)}, do_compression=compressed)
        whole = path.read_bytes()
        for length in (0, 3, 60, 127, 130, 140, 180, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"a\.mat cannot be read as a MATLAB file"):
                matlab.read_mat(path)


@pytest.mark.parametrize(
    "value",
    ["text", np.zeros((2, 2, 2)), np.array([[0.5]]), np.array([[np.nan]]), {"a": 1}, np.zeros((0, 3)), [[1j]], [[-1]]],
    ids=["text", "three axes", "fraction", "nan", "struct", "empty", "complex", "negative"],
)
def test_mat_file_with_odd_content(value, tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "a.mat", {"LabelMap": value})
    with pytest.raises(InputError, match=r"a\.mat (does not contain a label map|contains labels from -1 to -1)"):
        context459.convert(tmp_path / "a.mat", tmp_path / "a.tif")
    scipy_io.savemat(tmp_path / "b.mat", {"GTcls": value})
    with pytest.raises(InputError, match=r"b\.mat has no GTcls\.Segmentation"):
        voc_aug.convert(tmp_path / "b.mat", tmp_path / "b.png")
    scipy_io.savemat(tmp_path / "c.mat", {"GTcls": {"Segmentation": value}})
    with pytest.raises(InputError, match=r"c\.mat (does not contain a label map|contains labels from -1 to -1)"):
        voc_aug.convert(tmp_path / "c.mat", tmp_path / "c.png")
    assert not list(tmp_path.glob("*.tif")) and not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["a.mat", "trainval_merged.json"])
def test_a_pipe_is_refused_at_once(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not a regular file"):
        matlab.read_mat(tmp_path / name) if name == "a.mat" else prepare("context", tmp_path, tmp_path)


def test_raw_label_beyond_the_table(tmp_path):
    path = tmp_path / "gtFine/val/bonn/a_gtFine_labelIds.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((4, 6), 300, np.uint16)).save(path)
    with pytest.raises(InputError, match=r"a_gtFine_labelIds\.png contains values from 300 to 300, not 0 to 255"):
        prepare("cityscapes", tmp_path, tmp_path)


def test_without_scipy_the_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(NotFound, match=r"pip install -r requirements-prepare\.txt"):
        matlab.read_mat(tmp_path / "a.mat")
    assert "scipy" in (REPOSITORY / "requirements-prepare.txt").read_text()


def test_voc_aug_without_sbd(tmp_path):
    with pytest.raises(NotFound, match=r"no folder cls found in .*unpack SBD's benchmark\.tgz"):
        prepare("voc_aug", root=tmp_path)


def raw_ade(root: Path, height: int, width: int) -> tuple[Path, np.ndarray]:
    """A validation image and its label: the first three of the 847 classes, and an object of another class."""
    folder = root / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    ids = np.resize([2978, 312, 2420, 1], (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)
    save(folder / "ADE_val_00000001_seg.png", np.stack([ids // 256 * 10, ids % 256, ids * 0 + 77], -1))
    photo(folder / "ADE_val_00000001.jpg", height, width)
    photo(folder / "ADE_val_00000001" / "instance_000.png")
    return folder / "ADE_val_00000001.jpg", np.array([VOID, 0, 1, 2])[np.searchsorted([1, 312, 2420, 2978], ids)]


def test_ade847(tmp_path):
    source, _ = raw_ade(tmp_path, 8, 12)
    prepare("ade847", root=tmp_path)
    (sample,) = folder = load_config("ade847").data.open(tmp_path)
    assert sample.label[::4, ::4].tolist() == [[0, 1, 2], [VOID, 0, 1]]
    Image.open(source).save(tmp_path / "published.jpg")  # the published converter encodes small images again, too
    assert folder.items[0].image.read_bytes() == (tmp_path / "published.jpg").read_bytes() != source.read_bytes()


@pytest.mark.parametrize(
    "height, width, smaller",
    [(1024, 1200, (512, 600)), (1200, 1024, (600, 512)), (512, 2000, (512, 2000)), (513, 513, (512, 512))],
)
def test_ade847_reduces_large_images(height, width, smaller):
    assert ade847.reduced(height, width) == smaller


def test_ade847_large_image_is_the_published_one(tmp_path):
    cv2 = pytest.importorskip("cv2")
    source, _ = raw_ade(tmp_path, 628, 868)
    save(source.with_name("ADE_val_00000001_seg.png"), RANDOM.integers(0, 256, (628, 868, 3)))
    prepare("ade847", root=tmp_path)
    ((_, image, label),) = load_config("ade847").data.open(tmp_path).items
    smaller = cv2.resize(np.asarray(Image.open(source)), (708, 512), interpolation=cv2.INTER_LINEAR)
    Image.fromarray(smaller).save(tmp_path / "published.jpg")
    assert image.read_bytes() == (tmp_path / "published.jpg").read_bytes()
    stored = np.asarray(Image.open(source.with_name("ADE_val_00000001_seg.png")))
    red, green = (cv2.resize(stored[..., k], (708, 512), interpolation=cv2.INTER_NEAREST) for k in (0, 1))
    assert np.array_equal(np.asarray(Image.open(label)), ade847.TABLE[red.astype(int) // 10 * 256 + green])


def test_ade847_large_image_and_label_fit(tmp_path):
    raw_ade(tmp_path, 1024, 1200)
    prepare("ade847", root=tmp_path)
    (sample,) = folder = load_config("ade847").data.open(tmp_path)
    assert sample.image.shape == (512, 600, 3) and sample.label.shape == (512, 600)
    assert sample.label[::2, ::2][:1, :3].tolist() == [[0, 1, 2]]  # blocks of 4 pixels are blocks of 2 now
    assert set(np.unique(sample.label)) == {VOID, 0, 1, 2}
    assert not folder.items[0].image.is_symlink()


def test_ade847_ids():
    assert len(set(ade847.IDS)) == 847 and max(ade847.IDS) < len(ade847.TABLE)
    assert (ade847.TABLE != 65535).sum() == 847 and ade847.TABLE[2978] == 0


RAW = {
    "ade847": lambda root: raw_ade(root, 1024, 1200),
    "cityscapes": lambda root: raw_cityscapes(root / "cityscapes"),
    "coco_object": lambda root: raw_coco(root / "coco_stuff164k"),
    "coco_stuff": lambda root: raw_coco(root / "coco_stuff164k"),
    "context": lambda root: raw_context(root / "VOCdevkit/VOC2010"),
}


@pytest.mark.parametrize("name", sorted(RAW))
def test_twice_is_once_and_several_processes_make_the_same(name, tmp_path, capsys):
    RAW[name](tmp_path)
    prepare(name, root=tmp_path)
    once = files_below(tmp_path)
    prepare(name, root=tmp_path, processes=2)
    assert files_below(tmp_path) == once
    assert ": 0 files written" in capsys.readouterr().out
    made = [tmp_path / path for path in once if "TrainIds" in path or path.endswith((".tif", ".txt"))]
    made[0].unlink()
    prepare(name, root=tmp_path, processes=2)
    again = files_below(tmp_path)
    assert {path: content for path, (content, _) in again.items()} == {p: content for p, (content, _) in once.items()}


KILLED = """
import os, signal, sys
from pathlib import Path
from datasets.prepare.tasks import Task, run
from proxyclip.files import write_whole

def convert(number, target):
    def write(file):
        file.write(b"whole")
        file.flush()
        if number == 5 and Path(sys.argv[2]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        file.write(str(number).encode())

    write_whole(target, write)

if __name__ == "__main__":
    out = Path(sys.argv[1])
    run([Task(convert, number, out / str(number)) for number in range(9)], out, processes=int(sys.argv[3]))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_the_middle_of_a_file(processes, tmp_path):
    out, bomb, program = tmp_path / "out", tmp_path / "bomb", tmp_path / "program.py"
    program.write_text(KILLED)
    bomb.touch()
    command = [sys.executable, str(program), str(out), str(bomb), str(processes)]
    surroundings = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    first = subprocess.run(command, capture_output=True, env=surroundings, timeout=60)
    assert first.returncode in ({-signal.SIGKILL} if processes == 1 else {1})
    assert all(path.read_text() == f"whole{path.name}" for path in out.iterdir() if not path.name.startswith("."))
    assert "whole" in [path.read_text() for path in out.glob(".*.tmp")]
    done = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".")}
    bomb.unlink()
    subprocess.run(command, check=True, capture_output=True, env=surroundings, timeout=60)
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == set("012345678")
    assert all((out / name).read_text() == f"whole{name}" for name in "012345678")
    assert all((out / name).stat().st_mtime_ns == before for name, before in done.items())


SLOW = """
import os, sys, time
from pathlib import Path
from datasets.prepare.tasks import Task, run

def convert(number, target):
    (Path(sys.argv[1]) / f"{os.getpid()}.pid").touch()
    time.sleep(0.05)
    target.touch()

if __name__ == "__main__":
    out = Path(sys.argv[1])
    run([Task(convert, number, out / str(number)) for number in range(10_000)], out, processes=2)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")  # a dead child that nobody waits for is still listed, as Z
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_end_with_a_killed_parent(tmp_path):
    out, program = tmp_path / "out", tmp_path / "program.py"
    program.write_text(SLOW)
    surroundings = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, str(program), str(out)], env=surroundings, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while len(list(out.glob("*.pid"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    workers = [int(path.stem) for path in out.glob("*.pid")]
    try:
        while any(map(alive, workers)):
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)


def fill_the_disk(source, target):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("processes", [1, 2])
def test_full_disk(processes, tmp_path):
    full = tasks.Task(fill_the_disk, None, tmp_path / "a.png")
    with pytest.raises(InputError, match=r"cannot write .*a\.png: No space left on device"):
        tasks.run([full], tmp_path, processes)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot create the folder .*labels: Not a directory"):
        tasks.run([tasks.Task(fill_the_disk, None, tmp_path / "out/labels/a.png")], tmp_path)


def test_processes_out_of_range(tmp_path):
    with pytest.raises(InputError, match="--processes must be at least 1, not 0"):
        tasks.run([], tmp_path, 0)


def test_nothing_to_do_draws_no_bar(tmp_path, capsys):
    tasks.run([], tmp_path)
    assert capsys.readouterr().err == ""


def die(source, target):
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker(tmp_path):
    with pytest.raises(InputError, match="a worker process was killed, .*; the same command continues"):
        tasks.run([tasks.Task(die, None, tmp_path / "a.png")], tmp_path, 2)


def test_links_survive_moving_the_folders_together(tmp_path):
    raw_cityscapes(tmp_path / "here/raw")
    prepare("cityscapes", tmp_path / "here/raw", tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert len(load_config("city_scapes").data.open(tmp_path / "there")) == 2


def test_hard_links_where_there_are_no_symbolic_ones(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("not permitted")

    photo(tmp_path / "a.png")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    tasks.link(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_ino == (tmp_path / "a.png").stat().st_ino


def test_link_to_nothing_is_an_error(tmp_path):
    with pytest.raises(NotFound, match=r"a\.png does not exist"):
        tasks.link(tmp_path / "a.png", tmp_path / "b.png")


def test_raw_label_saved_in_colours(tmp_path):
    photo(tmp_path / "annotations/val2017/000000000139.png")
    with pytest.raises(InputError, match=r"000000000139\.png has mode RGB"):
        prepare("coco_stuff", tmp_path, tmp_path)


def test_command_line(tmp_path, capsys):
    raw_cityscapes(tmp_path / "raw")
    main(["cityscapes", str(tmp_path / "raw"), "--data-root", str(tmp_path), "--processes", "1"])
    assert "cityscapes: 6 files written, 0 already there" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["cityscape"])
    assert ended.value.code == 2
    assert "no converter is called 'cityscape'; did you mean cityscapes?" in capsys.readouterr().err


def test_every_converter_that_a_config_names_exists():
    configs = [load_config(name) for name in ("voc20", "context59", "context459", "coco_stuff164k", "coco_object")]
    configs += [load_config(name) for name in ("city_scapes", "ade847", "ade20k", "voc21", "context60")]
    named = {name for config in configs for split in config.data.splits.values() for name in split.prepare}
    assert named == set(NAMES)
