"""Scenes that are stored when they are first generated: the same as generated anew, shared, and never half."""

import multiprocessing
import pickle

import numpy as np
import pytest

from datasets import scenes
from datasets.scenes import dataset
from datasets.scenes.dataset import SyntheticScenes
from proxyclip.errors import InputError

SPLITS = {"train": range(1000, 1004)}
GENERATED = SyntheticScenes(size=32, splits=SPLITS).open(split="train")


def opened(root):
    return SyntheticScenes(size=32, splits=SPLITS, store=True).open(root, "train")


def same(one, other):
    return one.stem == other.stem and all(
        np.array_equal(a, b) and a.dtype == b.dtype and b.flags.writeable and b.flags.c_contiguous
        for a, b in zip(one[1:], other[1:], strict=True)
    )


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_scene_is_generated_once(tmp_path, monkeypatch):
    samples = opened(tmp_path)
    assert len(samples) == 4 and samples.items == GENERATED.items
    assert all(same(GENERATED[index], samples[index]) for index in range(4))
    assert [path.name for path in files(tmp_path)] == [f"{item.stem}.npy" for item in samples.items]
    monkeypatch.setattr(scenes, "draw", None)
    again = pickle.loads(pickle.dumps(opened(tmp_path)))
    monkeypatch.undo()
    assert all(same(GENERATED[index], again[index]) for index in range(4))


def test_stored_scenes_are_read(tmp_path):
    opened(tmp_path)[2]
    (path,) = files(tmp_path)
    changed = np.load(path)
    changed[3, 5] = 1, 2, 3, 4
    np.save(path, changed)
    _, image, label = opened(tmp_path)[2]
    assert image[3, 5].tolist() == [1, 2, 3] and label[3, 5] == 4


@pytest.mark.parametrize("content", [b"", b"half", "truncated", "of another size"])
def test_a_damaged_file_is_replaced(content, tmp_path):
    opened(tmp_path)[0]
    (path,) = files(tmp_path)
    if content == "of another size":
        np.save(path, np.zeros((16, 16, 4), np.uint8))
    else:
        path.write_bytes(path.read_bytes()[:-100] if content == "truncated" else content)
    assert same(GENERATED[0], opened(tmp_path)[0])
    assert np.load(path).shape == (32, 32, 4)


def test_nothing_is_stored_unless_asked(tmp_path):
    assert same(GENERATED[0], SyntheticScenes(size=32, splits=SPLITS).open(tmp_path, "train")[0])
    assert files(tmp_path) == []


def test_other_code_or_another_size_has_a_folder_of_its_own(tmp_path, monkeypatch):
    opened(tmp_path)[0]
    monkeypatch.setattr(dataset, "generator_version", lambda: "other")
    opened(tmp_path)[0]
    SyntheticScenes(size=64, splits=SPLITS, store=True).open(tmp_path, "train")[0]
    folders = {path.parent.name for path in files(tmp_path)}
    assert len(folders) == 3 and {"other-32", "other-64"} < folders


def test_the_version_changes_with_every_file_of_the_generator(tmp_path, monkeypatch):
    for name in ("__init__.py", "textures.py"):
        (tmp_path / name).write_text("one = 1")
    monkeypatch.setattr(dataset, "__file__", str(tmp_path / "dataset.py"))
    before = dataset.generator_version.__wrapped__()
    assert dataset.generator_version.__wrapped__() == before
    (tmp_path / "textures.py").write_text("one = 2")
    assert dataset.generator_version.__wrapped__() != before


def read_all(root):
    samples = opened(root)
    return [samples[index].image.sum() for index in range(4)]


def test_processes_share_a_folder(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        sums = pool.map(read_all, [tmp_path] * 8, chunksize=1)
    assert sums == [[sample.image.sum() for sample in GENERATED]] * 8
    assert len(files(tmp_path)) == 4


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    samples = opened(tmp_path / "data")
    monkeypatch.setattr(dataset, "write_whole", full_disk)
    with pytest.raises(InputError, match="^cannot store the scene .*scene-001001.npy: No space left on device$"):
        samples[1]
    (tmp_path / "scenes").write_text("a file")
    with pytest.raises(InputError, match="cannot create the output folder"):
        opened(tmp_path)


def full_disk(path, write):
    raise OSError(28, "No space left on device")
