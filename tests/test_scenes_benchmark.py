"""The arithmetic of benchmarks/scenes.py and benchmarks/method_settings.py, against slow and obvious ways."""

import itertools

import numpy as np
import pytest
import torch

from benchmarks import method_settings
from benchmarks.scenes import area_under_curve, grouping, owners, summary, table
from datasets import scenes
from proxyclip.evaluation.metrics import confusion


def test_area_under_curve_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    values, positive = random.integers(0, 6, 40) / 5, random.random(40) < 0.3
    pairs = list(itertools.product(values[positive], values[~positive]))
    expected = sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
    assert area_under_curve(values, positive) == pytest.approx(expected)


def test_owners_of_patches():
    instances = np.zeros((4, 8), np.uint8)
    instances[:, 3:] = 7
    owner, share = owners(instances, 4)
    assert owner.tolist() == [0, 7] and share.tolist() == [0.75, 1.0]


class Knowing(torch.nn.Module):
    """Gives the instances themselves, one channel each, for the windows of one scene in turn."""

    patch_size = 4

    def __init__(self, instances):
        super().__init__()
        windows = [instances[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)]
        self.windows = iter(windows)

    def forward(self, images):
        owner, _ = owners(next(self.windows), 4)
        one_hot = torch.nn.functional.one_hot(torch.tensor(owner).unflatten(0, (16, 16)), 256)  # (16, 16, 256)
        return one_hot.permute(2, 0, 1)[None].float()


def test_grouping_of_a_vfm_that_knows():
    seed = 503
    assert grouping(Knowing(scenes.compose(seed).instances), range(seed, seed + 1)) == 100
    assert 60 < grouping(method_settings.MeanColour(), range(seed, seed + 1)) < 100


def test_summary_takes_stuff_and_things_apart():
    label = np.arange(24).repeat(10)
    prediction = label.copy()
    prediction[label == scenes.CLASSES.index("cup")] = scenes.CLASSES.index("sun")
    found = summary(confusion(prediction, label, 24).numpy())
    assert found["stuff"] == 100 and found["cup"] == 0 and found["sun"] == 50
    assert found["things"] == pytest.approx((13 * 100 + 50) / 15)
    assert found["mIoU"] == pytest.approx((22 * 100 + 50) / 24)


def test_tables_show_the_mean_and_every_training():
    assert "| a | 2.0 (1.0, 3.0) |" in table(["mIoU"], {"a": [[1.0, 3.0]]})
    assert "| a | 1.0 |" in table(["mIoU"], {"a": [[1.0]]})


def test_a_difference_and_its_error():
    own = np.stack([np.diag([10, 10])] * 9)
    worse = own.copy()
    worse[::3] = [[10, 0], [5, 5]]  # every third scene loses half of its second class
    change, error = method_settings.difference([worse], [own])
    lost = scores_of(worse.sum(0)) - 100
    assert change == pytest.approx(lost) and 0 < error < -lost
    assert method_settings.difference([own], [own]) == (0, 0)


def scores_of(matrix):
    hit = np.diag(matrix)
    return 100 * np.mean(hit / (matrix.sum(0) + matrix.sum(1) - hit))
