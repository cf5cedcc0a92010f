"""Several processes give one process's result, to the last pixel."""

import fake_benchmark
import numpy as np
import pytest
import ranks_helper
import torch
from fake_benchmark import CLASSES, Samples, predict

from proxyclip.evaluation.distributed import Ranks, joined, own_device
from proxyclip.evaluation.evaluate import Settings, evaluate


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_shares_are_disjoint_and_complete(count):
    shares = [Ranks(rank, 4).share(range(count)) for rank in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def counted(ranks, folder):
    torch.set_num_threads(1)
    total = evaluate(predict, Samples(17, broken=[5]), CLASSES, 16, Settings(0, skip_bad=True), ranks=ranks)
    assert (total is None) == (not ranks.first)
    if ranks.first:
        assert set(total.skipped) == {"folder/image005"} and len(total.images) == 16
        np.save(folder / f"{ranks.world}.npy", total.matrix)


@pytest.mark.parametrize("world", [1, 2, 4, 20])
def test_same_matrix_with_any_number_of_processes(world, tmp_path):
    """Also with more processes than images."""
    ranks_helper.finish(ranks_helper.start(world, counted, tmp_path))
    assert (np.load(tmp_path / f"{world}.npy") == fake_benchmark.expected(set(range(17)) - {5})).all()


def summed(ranks):
    """2^53 + 1 is the first integer that float64 does not hold."""
    total = ranks.sum(np.array([[2**53, 1], [ranks.rank, 2**31]]))
    assert total.dtype == np.int64 and total.tolist() == [[2 * 2**53, 2], [1, 2 * 2**31]]
    assert ranks.from_first(f"rank {ranks.rank}") == "rank 0"
    assert ranks.gather(ranks.rank) == [0, 1]


def test_integers_are_added_exactly():
    ranks_helper.finish(ranks_helper.start(2, summed))


def test_one_process_needs_no_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks == Ranks(0, 1) and ranks.first
        assert ranks.gather("a") == ["a"] and ranks.from_first("b") == "b"


def test_each_process_takes_its_own_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("auto") == own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu"
