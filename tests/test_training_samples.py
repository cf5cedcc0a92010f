"""Training samples: one order for any number of workers and ranks, nothing of unseen classes, and clear errors."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_benchmarks import TRAIN_LAYOUTS, build

from configs.load import load_config
from datasets.augment import UNLABELLED, Augment, LabelTable
from datasets.folder import ImagePair
from datasets.label_map import VOID
from datasets.training import TrainingSamples, read_batches
from proxyclip.errors import InputError, NotFound

ROOT = Path(__file__).parents[1]
CLASSES = ("sky", "cat", "dog", "sea", "cup", "bus")
SEEN, UNSEEN = CLASSES[:3], (3, 4, 5)
AUGMENT = Augment(scale=(60, 40), crop=32)


class Samples:
    """Images of differing sizes, H != W, in large squares of each class."""

    def __init__(self, count=7, unseen_as=None):
        self.count, self.unseen_as = count, unseen_as  # unseen_as: seed of other unseen classes in their place

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        height, width = 40 + index, 70 - index
        small = rng.integers(VOID, len(CLASSES), (5, 7))
        if index % 3 == 0:
            small[rng.random((5, 7)) < 0.9] = 4  # more than three quarters are one unseen class
        label = np.kron(small, np.ones((10, 10), int))[:height, :width].astype(np.int32)
        if self.unseen_as is not None:
            others = np.random.default_rng(self.unseen_as).choice(UNSEEN, label.shape)
            label = np.where(np.isin(label, UNSEEN), others, label).astype(np.int32)
        return ImagePair(f"image{index}", rng.integers(0, 256, (height, width, 3), np.uint8), label)


def training_samples(count=7, seed=5, table=None, augment=AUGMENT, unseen_as=None):
    return TrainingSamples(Samples(count, unseen_as), table or LabelTable.fully(CLASSES), augment, seed)


def first(samples, count, **options):
    """So many batches."""
    with read_batches(samples, **options) as stream:
        return [next(stream) for _ in range(count)]


def same(ones, others):
    return all(
        torch.equal(a, b) for one, other in zip(ones, others, strict=True) for a, b in zip(one, other, strict=True)
    )


# --- order


class Numbered(Samples):
    """Each image is filled with its number."""

    def __getitem__(self, index):
        return ImagePair("", np.full((5, 8, 3), index, np.uint8), np.zeros((5, 8), np.int32))


def order(seed, positions, count=9):
    plain = Augment(scale=(8, 5), ratio=(1.0, 1.0), crop=4, distort=False)
    samples = TrainingSamples(Numbered(count), LabelTable.fully(CLASSES), plain, seed)
    return [round(samples[position][0].max().item() * 255) for position in positions]


def test_each_epoch_is_a_permutation_of_its_own():
    epochs = [order(3, range(9 * epoch, 9 * epoch + 9)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(9)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert order(4, range(9)) != epochs[0]


def test_a_sample_depends_on_its_position_alone():
    samples = training_samples()
    forwards = [samples[position] for position in range(20)]
    backwards = [training_samples()[position] for position in reversed(range(20))]
    assert same(forwards, backwards[::-1])
    other_seed = [training_samples(seed=6)[position] for position in range(20)]
    assert not any(torch.equal(one[0], other[0]) for one, other in zip(forwards, other_seed, strict=True))


def test_an_image_is_augmented_anew_in_each_epoch():
    samples = training_samples(count=1)
    images = [samples[position][0] for position in range(5)]
    assert not any(torch.equal(images[0], image) for image in images[1:])


def test_a_far_position_takes_no_longer():
    assert order(3, [10**15])[0] in range(9)


# --- batches


@pytest.fixture(scope="module")
def unbroken():
    return first(training_samples(), 6, batch=4)


def test_a_batch_holds_consecutive_samples(unbroken):
    samples = training_samples()
    for place, (images, labels) in enumerate(unbroken):
        alone = [samples[position] for position in range(4 * place, 4 * place + 4)]
        assert torch.equal(images, torch.stack([image for image, _ in alone]))
        assert torch.equal(labels, torch.stack([label for _, label in alone]))
        assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32 and images.is_contiguous()
        assert labels.shape == (4, 32, 32) and labels.dtype == torch.int64
        assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(unbroken, workers):
    assert same(first(training_samples(), 6, batch=4, workers=workers), unbroken)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_see_what_one_sees_in_batches_of_twice_the_size(unbroken, workers):
    ranks = [first(training_samples(), 6, batch=2, rank=rank, ranks=2, workers=workers) for rank in range(2)]
    together = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert same(together, unbroken)


@pytest.mark.parametrize("start", [4, 7, 13])
def test_a_run_continues_anywhere(start):
    samples = training_samples()
    expected = [samples[position] for position in range(start, start + 6)]
    found = [first(training_samples(), 3, batch=1, start=start, rank=rank, ranks=2) for rank in range(2)]
    for step, rank in np.ndindex(3, 2):
        assert same([tuple(part[0] for part in found[rank][step])], [expected[2 * step + rank]])


def test_batches_become_floats_on_the_device_of_the_model():
    images, labels = first(training_samples(), 1, batch=2, device=torch.device("meta"))[0]
    assert images.device.type == labels.device.type == "meta"
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64) and images.shape == (2, 3, 32, 32)


def test_an_image_smaller_than_the_crop_is_padded():
    images, labels = first(training_samples(augment=Augment(scale=(30, 20), crop=64)), 1, batch=2)[0]
    assert images.shape == (2, 3, 64, 64)
    assert (labels[:, 63] == VOID).all() and (labels[:, :, 63] == VOID).all() and (labels >= 0).any()


# --- unseen classes

TABLES = {"inductive": LabelTable.inductive(CLASSES, SEEN), "transductive": LabelTable.transductive(CLASSES, SEEN)}


@pytest.mark.parametrize("setting", TABLES)
def test_which_unseen_class_a_pixel_has_changes_nothing(setting):
    table = TABLES[setting]
    kept = [training_samples(table=table)[position] for position in range(60)]
    exchanged = [training_samples(table=table, unseen_as=8)[position] for position in range(60)]
    assert same(kept, exchanged)
    values = set(torch.cat([label.flatten() for _, label in kept]).tolist())
    assert values == {0, 1, 2, VOID} | ({UNLABELLED} if setting == "transductive" else set())


def test_the_crop_alone_would_tell_unseen_classes_apart():
    """What the test above would not notice if crops did not depend on labels."""
    kept = [training_samples()[position][0] for position in range(60)]
    exchanged = [training_samples(unseen_as=8)[position][0] for position in range(60)]
    assert 0 < sum(not torch.equal(one, other) for one, other in zip(kept, exchanged, strict=True)) < 60


def test_both_settings_see_the_same_crops():
    ones, others = (training_samples(table=table) for table in TABLES.values())
    for position in range(20):
        (image, label), (same_image, same_label) = ones[position], others[position]
        assert torch.equal(image, same_image)
        assert torch.equal(label, same_label.where(same_label != UNLABELLED, torch.tensor(VOID)))


# --- errors


class Broken(Samples):
    def __getitem__(self, index):
        if index == 4:
            raise NotFound("image four.jpg does not exist")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_sample_that_cannot_be_read_is_its_own_sentence(workers):
    samples = TrainingSamples(Broken(), LabelTable.fully(CLASSES), AUGMENT, 0)
    with pytest.raises(NotFound, match="^image four.jpg does not exist$"):
        first(samples, 7, batch=2, workers=workers)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named(workers, tmp_path):
    label = np.full((50, 40), 3)
    _, (_, damaged, _) = build(tmp_path, "cfg_voc20", [label, label], TRAIN_LAYOUTS)
    damaged.write_bytes(damaged.read_bytes()[:300])
    data = load_config("voc20").data
    samples = TrainingSamples(data.open(tmp_path, "train"), LabelTable.fully(data.classes), AUGMENT, 0)
    with pytest.raises(InputError, match=f"^cannot read image {damaged}: .*") as caught:
        first(samples, 2, batch=1, workers=workers)
    assert "\n" not in str(caught.value)


class Deadly(Samples):
    def __getitem__(self, index):
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_is_one_sentence():
    samples = TrainingSamples(Deadly(), LabelTable.fully(CLASSES), AUGMENT, 0)
    sentence = (
        "^a data-loading worker was killed, possibly out of memory; rerun with --resume to continue from the last "
    )
    with pytest.raises(InputError, match=sentence):
        first(samples, 7, batch=1, workers=2)
    assert multiprocessing.active_children() == []


def test_closed_early_it_leaves_nothing_running():
    first(training_samples(), 1, batch=1, workers=2)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
        ({"start": -1}, "start must be a whole number of at least 0, not -1"),
        ({"workers": 1.5}, "workers must be a whole number of at least 0, not 1.5"),
        ({"ranks": 0}, "ranks must be a whole number of at least 1"),
        ({"rank": 2, "ranks": 2}, "rank must be from 0 to 1, not 2"),
    ],
)
def test_wrong_numbers(options, sentence):
    with pytest.raises(InputError, match=sentence):
        first(training_samples(), 1, **{"batch": 2, **options})


def test_wrong_seed_and_nothing_to_train_on():
    with pytest.raises(InputError, match="seed must be a whole number of at least 0, not -1"):
        training_samples(seed=-1)
    with pytest.raises(InputError, match="there are no samples to train on"):
        training_samples(count=0)


# --- processes

SCRIPT = """
import multiprocessing, sys
sys.path[:0] = {paths}
from test_training_samples import first, print_sizes, training_samples
from proxyclip.runtime import main_guard

@main_guard
def main():
    {body}

if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    main()
"""


def script(folder, method, body):
    path = folder / "script.py"
    path.write_text(SCRIPT.format(paths=[str(ROOT), str(ROOT / "tests")], body=body, method=method))
    return [sys.executable, str(path)]


def test_workers_need_not_be_forked(tmp_path, unbroken):
    samples = pickle.loads(pickle.dumps(training_samples()))
    assert same([samples[3]], [training_samples()[3]])
    body = "import torch; torch.save(first(training_samples(), 2, batch=4, workers=1), sys.argv[1])"
    saved = tmp_path / "batches.pt"
    subprocess.run([*script(tmp_path, "spawn", body), str(saved)], check=True, timeout=120)
    assert same(torch.load(saved, weights_only=True), unbroken[:2])


def print_sizes():
    with read_batches(training_samples(), batch=2, workers=2) as stream:
        for images, _ in stream:
            print(len(images), flush=True)


def test_control_c_is_one_word(tmp_path):
    """It reaches the workers as well."""
    command = script(tmp_path, "fork", "print_sizes()")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "2\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")


# --- the benchmarks' training splits

COUNTS = {
    "cfg_voc20": (10582,),
    "cfg_context59": (4996, 4998),
    "cfg_coco_stuff164k": (118287,),
    "cfg_ade20k": (20210,),
}


@pytest.mark.parametrize("config", TRAIN_LAYOUTS)
def test_official_training_layout_is_read(config, tmp_path):
    data = load_config(config).data
    stored = np.resize(np.array([0, 1, 7, 255]), (5, 7))
    pairs = build(tmp_path, config, [stored, stored], TRAIN_LAYOUTS)
    folder = data.open(tmp_path, "train")
    assert [tuple(item) for item in folder.items] == pairs
    shift = 0 if config == "cfg_coco_stuff164k" else 1
    expected = np.where(stored == 255, VOID, stored - shift)
    assert np.array_equal(folder[1].label, expected)
    assert data.split("train").count == COUNTS[config]


def test_a_dataset_without_the_split_is_one_sentence():
    with pytest.raises(InputError, match="coco_object has no split 'train'"):
        load_config("coco_object").data.open(split="train")
