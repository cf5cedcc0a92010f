"""Reading ahead of the model: order, errors, and that nothing is left running."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from fake_benchmark import Samples, eventually

from proxyclip.errors import InputError
from proxyclip.evaluation.prefetch import one_ahead, read_ahead
from proxyclip.image_io import resize, scaled_size, to_tensor


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_images_arrive_in_order_resized_with_their_tensors(workers):
    samples = Samples(9, broken=[2])
    for index, ready in zip(range(8, -1, -1), read_ahead(samples, range(8, -1, -1), 16, workers), strict=True):
        assert ready.stem == samples.items[index].stem
        if index == 2:
            assert ready.problem == "image002.jpg is truncated" and ready.picture is ready.tensor is None
            continue
        _, image, label = samples[index]
        picture = resize(image, scaled_size(*image.shape[:2], 16))
        assert (ready.picture == picture).all() and (ready.label == label).all() and not ready.problem
        assert torch.equal(ready.tensor, to_tensor(picture))


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
        raise RuntimeError(f"no sentence for {index}")


def test_an_error_in_a_worker_that_no_one_foresaw_arrives():
    with pytest.raises(RuntimeError, match="no sentence for 0"):
        next(read_ahead(BrokenCode(5), range(5), 16, 1))
    for worker in multiprocessing.active_children():  # they would live until the error is collected as garbage
        worker.terminate()
        worker.join()


@pytest.mark.parametrize("taken", [1, 5])
def test_closed_early_it_leaves_nothing_running(taken):
    threads = set(threading.enumerate())
    stream = read_ahead(Samples(1000), range(1000), 16, 2)
    for _ in range(taken):
        next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []
    assert eventually(lambda: set(threading.enumerate()) <= threads)  # a closed queue's thread ends a moment later


def test_workers_outlive_control_c():
    stream = read_ahead(Samples(30), range(30), 16, 2)
    before = [next(stream) for _ in range(3)]  # from both workers: both are prepared
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert len([*before, *stream]) == 30


class Deadly(Samples):
    """Its fourth image ends the process that reads it, as a machine does that is out of memory."""

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_is_killed_is_one_sentence():
    with pytest.raises(InputError, match="reads images was ended from outside.*--resume"):
        list(read_ahead(Deadly(6), range(6), 16, workers=1))


def reading(told) -> None:
    """Reads a first image and then waits, with workers that have more images than the pipe takes."""
    stream = read_ahead(Samples(100), range(100), 800, workers=2)
    next(stream)
    told.send([child.pid for child in multiprocessing.active_children()])
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


def running(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
