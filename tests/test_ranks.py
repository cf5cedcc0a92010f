"""Several processes give one process's result, to the last pixel; one that is lost is named, and none waits forever."""

import multiprocessing
import os
import re
import signal
import time

import fake_benchmark
import numpy as np
import pytest
import ranks_helper
import torch
import torch.distributed as dist
from fake_benchmark import CLASSES, Samples, one_by_one, predict, resized

from proxyclip.errors import InputError
from proxyclip.evaluation.loop import evaluate
from proxyclip.evaluation.progress import Progress
from proxyclip.evaluation.ranks import Ranks, rank_device, start_ranks


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_shares_are_disjoint_and_complete(count):
    shares = [Ranks(rank, 4).share(range(count)) for rank in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def count(ranks, folder):
    torch.set_num_threads(1)
    assert ranks.broadcast(f"rank {ranks.rank}") == "rank 0"
    assert ranks.gather(ranks.rank) == list(range(ranks.world))
    samples = Samples(17, broken=[5])
    total = evaluate(one_by_one(predict), samples, CLASSES, resize=resized, skip_bad=True, ranks=ranks)
    assert (total is None) == (not ranks.is_main)
    if ranks.is_main:
        assert set(total.skipped) == {"folder/image005"} and len(total.images) == 16
        np.save(folder / f"{ranks.world}.npy", total.matrix)


@pytest.mark.parametrize("world", [1, 2, 20])
def test_same_matrix_with_any_number_of_processes(world, tmp_path):
    """Also with more processes than images."""
    ranks_helper.finish(ranks_helper.start(world, count, tmp_path))
    assert (np.load(tmp_path / f"{world}.npy") == fake_benchmark.expected(set(range(17)) - {5})).all()


def test_one_process_needs_no_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with start_ranks() as ranks:
        assert ranks == Ranks(0, 1) and ranks.is_main
        ranks.barrier()
        assert ranks.gather("a") == ["a"] and ranks.broadcast("b") == "b"


def test_each_process_takes_its_own_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert rank_device("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_device("auto") == rank_device("cuda") == "cuda:1"
    assert rank_device("cpu") == "cpu" and rank_device("cuda:0") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 3 of this machine has no GPU, because there are only 2: start at"):
        rank_device("auto")


ONE_OF_TWO = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "changed",
    [
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"RANK": "2"},
        {"RANK": ""},
        {"MASTER_PORT": "99999"},
        {"PROXYCLIP_PATIENCE": "long"},
        {"PROXYCLIP_PATIENCE": "1" + "0" * 30},
    ],
    ids=str,
)
def test_variables_that_describe_no_ranks(changed, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_PATIENCE", "1")
    for name, value in (ONE_OF_TWO | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="^the processes cannot connect: .*"), start_ranks():
        pass
    assert not dist.is_initialized()


def run_on_different_gpus(ranks, folder):
    """Each rank sees another device in its protocol, and rank 1 has no disk of its own."""
    torch.set_num_threads(1)
    workdir = folder if ranks.is_main else folder / "nowhere"
    progress = Progress(workdir, {"device": f"GPU {ranks.rank}"})
    stopped = not list(folder.glob("progress/*/*.jsonl"))
    ranks.barrier()
    samples = Samples(12, broken=[10, 11] if stopped else ())
    try:
        total = evaluate(
            one_by_one(predict), samples, CLASSES, resize=resized, progress=progress, resume="resume", ranks=ranks
        )
    except InputError:
        assert stopped
        return
    assert not stopped
    if ranks.is_main:
        assert (total.matrix == fake_benchmark.expected(range(12))).all()


def test_rank_0_alone_decides_which_progress_belongs_to_the_run(tmp_path):
    for files in (2, 4):
        ranks_helper.finish(ranks_helper.start(2, run_on_different_gpus, tmp_path))
        assert len(list(tmp_path.glob("progress/*/*.jsonl"))) == files
    assert not (tmp_path / "nowhere").exists()


def say(rank, world, port, work, folder):
    """Does the work of a rank, and writes down its result or the sentence that it ends with."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"
    try:
        with start_ranks() as ranks:
            said = work(ranks)
    except (InputError, RuntimeError) as error:
        said = error
    (folder / f"{rank}.said").write_text(str(said))


def run_ranks(folder, work, patience: int, world: int = 3, started=None) -> dict[int, str]:
    """What the ranks say, those of `started` if not all of them are started."""
    port, context = ranks_helper.free_port(), multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PROXYCLIP_PATIENCE", str(patience))
        patched.setattr("proxyclip.evaluation.ranks.TIME_TO_TELL", 0.2)
        processes = [
            context.Process(target=say, args=(rank, world, port, work, folder)) for rank in started or range(world)
        ]
        for process in processes:
            process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "it waits forever"
    return {int(path.stem): path.read_text() for path in folder.glob("*.said")}


ENDING = "; no counts are lost: rerun with --resume"


def gather_killed(ranks):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.gather(ranks.rank)


def test_a_rank_that_is_killed_is_named_to_rank_0_and_ends_all_others(tmp_path):
    began = time.monotonic()
    said = run_ranks(tmp_path, gather_killed, patience=60)
    assert time.monotonic() - began < 30  # not after the patience
    assert said.keys() == {0, 2} and all(sentence.endswith(ENDING) for sentence in said.values())
    assert said[0] == f"rank 1 ended or did not answer within 60 seconds{ENDING}"
    assert said[2] == f"rank 0 ended, or waits for a rank that ended{ENDING}"


def gather_stopped(ranks):
    """As far as the others can tell, rank 1 has lost its power: its connections stay open."""
    if ranks.rank == 1:
        time.sleep(4)
        os._exit(0)
    return ranks.gather(ranks.rank)


def test_a_rank_that_does_not_answer_is_named(tmp_path):
    said = run_ranks(tmp_path, gather_stopped, patience=2)
    assert said[0] == f"rank 1 ended or did not answer within 2 seconds{ENDING}"
    assert said.keys() == {0, 2} and said[2].endswith(ENDING)


def gather_slowly(ranks):
    time.sleep(ranks.rank / 2)
    return ranks.gather(ranks.rank)


def test_a_slow_rank_is_waited_for(tmp_path):
    assert set(run_ranks(tmp_path, gather_slowly, patience=60).values()) == {"[0, 1, 2]"}


def reduce_killed(ranks):
    """As in the sum of gradients, before which ranks do not meet."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def test_a_connection_that_breaks_is_one_sentence(tmp_path):
    said = run_ranks(tmp_path, reduce_killed, patience=60)
    pattern = rf"another process of this run ended \(.+\){re.escape(ENDING)}"
    assert said.keys() == {0, 2} and all(re.fullmatch(pattern, sentence) for sentence in said.values())


def run_out_of_memory(ranks):
    raise RuntimeError("out of memory")


def test_errors_that_are_not_about_connections_stay_what_they_are(tmp_path):
    said = run_ranks(tmp_path, run_out_of_memory, patience=60, world=2)
    assert said == {0: "out of memory", 1: "out of memory"}


@pytest.mark.parametrize("started", [[0, 2], [1]])
def test_ranks_that_do_not_arrive(started, tmp_path):
    said = run_ranks(tmp_path, None, patience=2, world=4, started=started)
    assert said.keys() == set(started)
    assert all(sentence.startswith("the processes cannot connect: ") for sentence in said.values())
