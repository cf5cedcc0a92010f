"""A rank that is lost is named to those that wait for it; a rank that is slow is waited for."""

import multiprocessing
import os
import re
import signal
import socket
import time

import pytest
import ranks_helper
import torch
import torch.distributed as dist

from proxyclip.errors import InputError
from proxyclip.evaluation.distributed import joined
from proxyclip.evaluation.peers import duration

HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv("PROXYCLIP_PATIENCE", "1")
    monkeypatch.setattr("proxyclip.evaluation.distributed.TIME_TO_TELL", 1.0)  # rank 0 serves the store meanwhile
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def say(rank, world, port, work, folder):
    """Does the work of a rank, and writes down its result or the sentence that it ends with."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"
    try:
        with joined() as ranks:
            said = work(ranks, folder)
    except (InputError, RuntimeError) as error:
        said = error
    (folder / f"{rank}.said").write_text(str(said))


def told(folder, work, world=3, only=None) -> dict[int, str]:
    """What the ranks say, those of `only` if not all of them are started."""
    port, context = ranks_helper.free_port(), multiprocessing.get_context("fork")
    started = [
        context.Process(target=say, args=(rank, world, port, work, folder))
        for rank in (range(world) if only is None else only)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(30)
        assert process.exitcode is not None, "it waits forever"
    return {int(path.stem): path.read_text() for path in folder.glob("*.said")}


def killed(ranks, _):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.gather(ranks.rank)


def test_a_rank_that_is_killed_is_named_to_all_others(tmp_path):
    sentence = f"rank 1 on {HOST} has not been heard from for 1 seconds; no counts are lost: rerun with --resume"
    assert told(tmp_path, killed) == {0: sentence, 2: sentence}


def slow(ranks, _):
    if ranks.rank == 1:
        time.sleep(1.8)
    return ranks.gather(ranks.rank)


def test_a_slow_rank_is_waited_for_longer_than_the_patience(tmp_path):
    assert set(told(tmp_path, slow).values()) == {"[0, 1, 2]"}


def failing(ranks, _):
    if ranks.rank == 1:
        raise InputError("the disk is full")
    if ranks.rank == 2:
        raise SystemExit(0 if ranks.gather(0) else 1)
    began = time.monotonic()
    with pytest.raises(InputError) as error:
        ranks.gather(0)
    assert time.monotonic() - began < 3  # not after the patience
    raise error.value


def test_a_rank_that_ends_tells_the_others_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_PATIENCE", "4")
    found = told(tmp_path, failing)
    sentence = f"rank 1 on {HOST} ended (the disk is full); no counts are lost: rerun with --resume"
    assert found == {0: sentence, 1: "the disk is full", 2: sentence}


def without_power(ranks, folder):
    """As far as the others can tell: the process neither answers nor closes its connections."""
    if ranks.rank == 0:
        (folder / "pid").write_text(str(os.getpid()))
        ranks.gather(0)
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.gather(0)
    try:
        return ranks.gather(0)
    finally:
        if ranks.rank == 1:
            time.sleep(1)  # the others notice it as well
            os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def test_rank_0_serves_the_store_and_may_be_lost_too(tmp_path):
    sentence = f"rank 0 on {HOST} ended or cannot be reached (no answer); no counts are lost: rerun with --resume"
    assert told(tmp_path, without_power) == {1: sentence, 2: sentence}


def stopped_for_a_while(ranks, folder):
    if ranks.rank == 1:
        (folder / "pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        return ranks.gather(0)
    finally:
        if ranks.rank == 0:
            os.kill(int((folder / "pid").read_text()), signal.SIGCONT)
            time.sleep(0.5)  # serves the store until rank 1 has heard of it


def test_a_rank_that_comes_back_too_late_hears_that_it_was_lost(tmp_path):
    sentence = f"rank 1 on {HOST} has not been heard from for 1 seconds; no counts are lost: rerun with --resume"
    assert told(tmp_path, stopped_for_a_while, 2) == {0: sentence, 1: sentence}


def killed_in_an_exchange(ranks, _):
    """As in the sum of gradients, for which ranks do not meet."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def test_a_connection_that_breaks_is_explained(tmp_path):
    found = told(tmp_path, killed_in_an_exchange)
    assert found.keys() == {0, 2}
    sentence = rf"rank 1 on {HOST} has not been heard from for [01] seconds; "  # 1: on a busy machine
    assert all(re.match(sentence, said) for said in found.values())


def unexpected(ranks, _):
    if ranks.rank == 1:
        raise InputError("rank 1 has no GPU")
    dist.all_reduce(torch.ones(1))


def test_a_connection_that_a_failing_rank_closed_is_explained(tmp_path):
    found = told(tmp_path, unexpected, 2)
    assert found[0].startswith(f"rank 1 on {HOST} ended (rank 1 has no GPU); ")


def out_of_memory(ranks, _):
    raise RuntimeError("out of memory")


def test_errors_that_are_not_about_connections_stay_what_they_are(tmp_path):
    assert told(tmp_path, out_of_memory, 2) == {0: "out of memory", 1: "out of memory"}


def test_ranks_that_do_not_arrive_are_named(tmp_path):
    ending = "did not arrive within 1 seconds (rank 1, 3): start all of them, with the same MASTER_ADDR and MASTER_PORT"
    found = told(tmp_path, None, world=4, only=[0, 2])
    assert found.keys() == {0, 2} and found[0].startswith(f"2 of 4 processes {ending}; ")
    assert found[2].startswith("2 of 4 processes did not arrive") or found[2].startswith("rank 0 ended or cannot be")


def test_rank_0_does_not_arrive(tmp_path):
    found = told(tmp_path, None, only=[1])
    assert found[1].startswith("the processes cannot connect: ") and "127.0.0.1" in found[1]


def meets_often(ranks, _):
    began = time.monotonic()
    for _ in range(200):
        ranks.meet()
    assert time.monotonic() - began < 5
    keys = ranks.peers.ask(lambda store: [store.check([f"meeting/{number}"]) for number in range(150)])
    return sum(keys)


def test_meetings_are_short_and_leave_nothing_behind(tmp_path):
    assert set(told(tmp_path, meets_often, 2).values()) == {"0"}


def test_durations():
    assert [duration(seconds) for seconds in (1.2, 119, 300.4)] == ["1 seconds", "119 seconds", "5 minutes"]
