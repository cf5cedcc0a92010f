"""The synthetic scenes: the same bytes everywhere, the same image at every size, and fair to measure on."""

import hashlib
import random
import time

import numpy as np
import pytest

from datasets import scenes
from datasets.scenes.__main__ import main as sheet_main
from datasets.scenes.words import name_of

# Of the 500 test scenes at 128 pixels, images and labels. If this changes, every published number changes its meaning.
TEST_SPLIT_SHA256 = "ccd1a87d09564b46c9658f15d7ceabc7bc7e1860980583ac233727d53f9d9117"


@pytest.fixture(scope="module")
def some():
    return [scenes.compose(seed) for seed in range(20_000, 20_300)]


def test_test_split_has_the_same_bytes_everywhere():
    digest = hashlib.sha256()
    for seed in scenes.SPLITS["test"]:
        image, label = scenes.draw(seed)
        digest.update(image.tobytes() + label.astype(np.uint8).tobytes())
    assert digest.hexdigest() == TEST_SPLIT_SHA256


@pytest.mark.parametrize("size", [32, 97, 128, 512])
def test_shapes_and_types(size):
    image, label = scenes.draw(np.int64(7), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert label.shape == (size, size) and label.dtype == np.int64 and label.max() < len(scenes.CLASSES)


def test_same_picture_at_every_size():
    for seed in range(20_000, 20_010):
        small, large = scenes.compose(seed, 128), scenes.compose(seed, 256)
        assert small.parts == large.parts
        assert (small.label == large.label[::2, ::2]).mean() > 0.96
        averaged = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
        assert np.abs(averaged - small.image).mean() < 12


def test_depends_on_the_seed_alone():
    first = scenes.compose(3)
    random.seed(1)
    np.random.seed(1)
    scenes.compose(4, 200)
    again = scenes.compose(3)
    assert (first.image == again.image).all() and first.caption == again.caption
    assert (first.image != scenes.compose(5).image).any()


def test_label_is_the_class_of_the_instance(some):
    for scene in some:
        numbers = np.array([scenes.CLASSES.index(name) for name, _ in scene.parts])
        assert (numbers[scene.instances] == scene.label).all()


def test_world_is_fair(some):
    """Every class is common, comes in several colours, and things are large enough to be learnt."""
    pixels = sum(np.bincount(scene.label.ravel(), minlength=24) for scene in some)
    share = pixels / pixels.sum()
    assert share[:9].min() > 0.02 and share[9:].min() > 0.006
    parts = {part for scene in some for part in scene.parts}
    for name in scenes.CLASSES:
        assert len({colour for part, colour in parts if part == name}) >= 3, name
    extents = [_extent(scene.instances == k) for scene in some for k in _whole_things(scene)]
    assert 44 <= np.median(extents) <= 60  # of 56 to 57 as drawn: the large ones meet the border more often


def _whole_things(scene):
    """Numbers of things that neither the border nor a later thing cuts: those painted last, well inside."""
    last = len(scene.parts) - 1
    mask = scene.instances == last
    inside = mask.any() and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    return [last] if inside and scene.parts[last][0] in scenes.THINGS else []


def _extent(mask):
    rows, columns = np.nonzero(mask)
    return max(np.ptp(rows), np.ptp(columns)) + 1


def test_captions_name_what_is_seen(some):
    for scene in some:
        for number, (name, _) in enumerate(scene.parts):
            if (scene.instances == number).mean() > 0.01:
                assert any(word in scene.caption for word in scenes.SYNONYMS[name]), (scene.caption, name)
    assert len({scene.caption for scene in some}) > 290


def test_every_name_means_one_class():
    names = [name for names in scenes.SYNONYMS.values() for name in names]
    assert len(names) == len(set(names))
    assert all(scenes.SYNONYMS[name][0] == name for name in scenes.CLASSES)
    assert {name_of("cup", scenes.Dice(seed)) for seed in range(20)} == {"cup", "mug"}


def test_splits():
    assert (len(scenes.CLASSES), len(scenes.STUFF), len(scenes.THINGS)) == (24, 9, 15)
    assert (len(scenes.SEEN), len(scenes.UNSEEN)) == (17, 7) and set(scenes.SEEN + scenes.UNSEEN) == set(scenes.CLASSES)
    test, tune, train = (scenes.SPLITS[name] for name in ("test", "tune", "train"))
    assert (len(test), len(tune)) == (500, 200)
    assert test.stop <= tune.start and tune.stop <= train.start


def test_two_hundred_scenes_a_second():
    """Measured against other work in the same moment: where programs share a core, both take longer."""
    values = np.random.default_rng(0).random((128, 128))

    def other_work():
        """A tenth of the time of 50 scenes at 200 a second."""
        for _ in range(400):
            np.sqrt(values), np.sort(values[:16].ravel()), values * values + values

    def seconds(work) -> float:
        before = time.process_time()
        work()
        return time.process_time() - before

    starts = (30_000, 30_050, 30_100)
    ratios = [seconds(lambda: [scenes.draw(start + k) for k in range(50)]) / seconds(other_work) for start in starts]  # noqa: B023
    assert min(ratios) < 20  # 10.8 to 11.5 on the processor that this was last raised for


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, None])
def test_unusable_seed(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        scenes.draw(seed)


@pytest.mark.parametrize("size", [31, 513, 0, -128, 128.0])
def test_unusable_size(size):
    with pytest.raises(ValueError, match="size must be a whole number from 32 to 512"):
        scenes.draw(0, size)


def test_contact_sheet(tmp_path):
    from PIL import Image

    sheet_main(["--show", "10", "--size", "32", "--out", str(tmp_path / "sheet.png")])
    assert Image.open(tmp_path / "sheet.png").size == (8 * 32, 2 * 32)
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    "arguments", [["--size", "5000"], ["--seed", "-1"], ["--show", "0"], ["--out", "{}/file/sheet.png"]]
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, arguments):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        sheet_main([argument.format(tmp_path) for argument in arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
