"""Several processes give one process's result, to the last pixel."""

import fake_benchmark
import numpy as np
import pytest
import ranks_helper
import torch
from fake_benchmark import CLASSES, Samples, predict, resized

from proxyclip.errors import InputError
from proxyclip.evaluation.counting import Settings, one_by_one
from proxyclip.evaluation.distributed import Ranks, joined, own_device
from proxyclip.evaluation.evaluate import evaluate
from proxyclip.evaluation.partial_counts import Progress


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_shares_are_disjoint_and_complete(count):
    shares = [Ranks(rank, 4).share(range(count)) for rank in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def counted(ranks, folder):
    torch.set_num_threads(1)
    total = evaluate(
        one_by_one(predict), Samples(17, broken=[5]), CLASSES, resized, Settings(0, skip_bad=True), ranks=ranks
    )
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
    assert own_device("cpu") == "cpu" and own_device("cuda:0") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 3 of this machine has no GPU, because there are only 2: start at"):
        own_device("auto")


ONE_OF_TWO = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"WORLD_SIZE": "two"}, "the variable WORLD_SIZE must be a whole number from 1 to 100000, not 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number from 1"),
        ({"WORLD_SIZE": "1.0"}, "WORLD_SIZE must be a whole number from 1"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE must be a whole number from 1"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE must be a whole number from 1"),
        ({"RANK": "2"}, "RANK must be a whole number from 0 to 1, not '2'"),
        ({"RANK": ""}, "WORLD_SIZE is 2 but RANK is not set"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT must be a whole number from 0 to 65535, not '99999'"),
        ({"MASTER_ADDR": "a..b"}, "MASTER_ADDR: no host 'a..b' found"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE must be a whole number from 1 to 2, not '3'"),
    ],
)
def test_variables_that_describe_no_ranks(changed, sentence, monkeypatch):
    for name, value in (ONE_OF_TWO | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=sentence), joined():
        pass


def on_different_gpus(ranks, folder):
    """Each rank sees another device in its protocol, and rank 1 has no disk of its own."""
    torch.set_num_threads(1)
    workdir = folder if ranks.first else folder / "nowhere"
    progress = Progress(workdir, {"device": f"GPU {ranks.rank}"})
    settings = Settings(0, save_every=0)
    stopped = len(list(folder.glob("progress/*/*.npz"))) == 0
    samples = Samples(12, broken=[10, 11] if stopped else ())
    try:
        total = evaluate(one_by_one(predict), samples, CLASSES, resized, settings, progress, "resume", ranks=ranks)
    except InputError:
        assert stopped
        return
    if ranks.first:
        assert (total.matrix == fake_benchmark.expected(range(12))).all()


def test_rank_0_alone_decides_which_progress_belongs_to_the_run(tmp_path):
    ranks_helper.finish(ranks_helper.start(2, on_different_gpus, tmp_path))
    assert not (tmp_path / "nowhere").exists()
    assert len(list(tmp_path.glob("progress/*/0000-*.npz"))) == 2
    ranks_helper.finish(ranks_helper.start(2, on_different_gpus, tmp_path))
    assert len(list(tmp_path.glob("progress/*/0001-*.npz"))) == 2
