"""Reading ahead of the model: order, errors, and that nothing is left running."""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from fake_benchmark import Samples, eventually, resized
from ranks_helper import running

from proxyclip.errors import InputError
from proxyclip.evaluation.prefetch import read_ahead
from proxyclip.images import resize, scaled_size, to_tensor
from proxyclip.workers import one_ahead


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_images_arrive_in_order_resized_with_their_tensors(workers):
    samples = Samples(9, broken=[2])
    for index, ready in zip(range(8, -1, -1), read_ahead(samples, range(8, -1, -1), resized, workers), strict=True):
        assert ready.stem == samples.items[index].stem
        if index == 2:
            assert ready.problem == "image002.jpg is truncated" and ready.image is ready.tensor is None
            continue
        _, image, label = samples[index]
        small = resized(image)
        assert (ready.image == small).all() and (ready.label == label).all() and not ready.problem
        assert torch.equal(ready.tensor, to_tensor(small))


def test_tensors_are_what_torch_would_divide():
    every_value = np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 8, 3)
    tensor = to_tensor(every_value)
    assert torch.equal(tensor, torch.from_numpy(every_value).permute(2, 0, 1).float() / 255)
    assert tensor.is_contiguous()


def test_the_next_item_is_fetched_while_the_caller_is_busy():
    both_are_here, fetched = threading.Barrier(2), []

    def items():
        yield "first"
        both_are_here.wait(10)
        yield "second"
        fetched.append("third")
        yield "third"

    ahead = one_ahead(items())
    assert next(ahead) == "first"
    assert fetched == []
    both_are_here.wait(10)  # breaks if the second item is fetched only when it is asked for
    assert list(ahead) == ["second", "third"]


def test_no_more_than_one_item_is_fetched_ahead():
    fetched = []
    for taken, _ in enumerate(one_ahead(fetched.append(index) or index for index in range(20))):
        assert len(fetched) <= taken + 2


def test_an_error_arrives_in_its_place():
    ahead = one_ahead(6 // (2 - index) for index in range(5))
    assert [next(ahead), next(ahead)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


class BrokenCode(Samples):
    def __getitem__(self, index):
        if index == 2:
            raise RuntimeError(f"no sentence for {index}")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_that_no_one_foresaw_arrives_and_ends_the_workers(workers):
    stream = read_ahead(BrokenCode(5), range(5), resized, workers)
    assert [next(stream).stem for _ in range(2)] == ["folder/image000", "folder/image001"]
    with pytest.raises(RuntimeError, match="no sentence for 2"):
        next(stream)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("taken", [1, 5])
def test_closed_early_it_leaves_nothing_running(taken):
    threads = set(threading.enumerate())
    stream = read_ahead(Samples(1000), range(1000), resized, 2)
    for _ in range(taken):
        next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []
    assert eventually(lambda: set(threading.enumerate()) <= threads)  # a closed queue's thread ends a moment later


def test_workers_survive_control_c():
    stream = read_ahead(Samples(30), range(30), resized, 2)
    before = [next(stream) for _ in range(3)]  # from both workers: both are prepared
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert len([*before, *stream]) == 30


def large(image):
    """About 2 MB: more than a pipe holds, so that to send it takes a while."""
    return resize(image, scaled_size(*image.shape[:2], 800))


def killing_a_worker(seed: int) -> None:
    """Kills a worker at a random moment: while it starts, reads, waits, or is halfway through sending an image."""
    dice, sentence = random.Random(seed), "a data-loading worker was killed, possibly out of memory"
    stream = read_ahead(Samples(40), range(40), dice.choice([resized, large]), workers=2)
    with contextlib.suppress(InputError), contextlib.closing(stream):
        next(stream)
        time.sleep(dice.uniform(0, 0.01))
        os.kill(dice.choice(multiprocessing.active_children()).pid, signal.SIGKILL)
        try:
            list(stream)
        except InputError as error:
            assert sentence in str(error)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("seed", range(20))
def test_a_worker_that_is_killed_at_any_moment_is_one_sentence(seed):
    """In a process of its own: what hangs here would hang for ever."""
    trial = multiprocessing.get_context("fork").Process(target=killing_a_worker, args=(seed,))
    trial.start()
    trial.join(20)
    hangs = trial.is_alive()
    trial.kill()
    trial.join()
    assert not hangs and trial.exitcode == 0


class Deadly(Samples):
    """Its fourth image ends the process that reads it, as a machine does that is out of memory."""

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_is_one_sentence():
    sentence = "^a data-loading worker was killed, possibly out of memory; no counts are lost: rerun with --resume"
    with pytest.raises(InputError, match=sentence):
        list(read_ahead(Deadly(6), range(6), resized, workers=1))


def reading(channel) -> None:
    """Reads a first image and then waits, with workers that have more images than the pipe takes."""
    stream = read_ahead(Samples(100), range(100), large, workers=2)
    next(stream)
    channel.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(60)


def test_workers_end_with_their_parent():
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    parent = context.Process(target=reading, args=(there,))
    parent.start()
    workers = here.recv()
    assert len(workers) == 2 and all(map(running, workers))
    parent.kill()
    parent.join()
    assert eventually(lambda: not any(map(running, workers)))
