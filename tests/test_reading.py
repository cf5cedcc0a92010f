"""Reading ahead of the model: order, errors, and that nothing is left running."""

import itertools
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from fake_benchmark import Samples, eventually, resized

from proxyclip.errors import InputError, NotFound
from proxyclip.evaluation.loop import LabelledImages
from proxyclip.evaluation.reading import choose_workers, make_loader, one_ahead, read_ahead
from proxyclip.images import resize, scaled_size

SENTENCE = "^a data-loading worker was killed, possibly out of memory; try again .and --workers 0 if it happens again.$"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_images_arrive_in_order_resized_as_tensors(workers):
    samples = Samples(9, broken=[2])
    order = range(8, -1, -1)
    with read_ahead(LabelledImages(samples, resized), order, workers=workers) as images:
        for index, image in zip(order, images, strict=True):
            assert image.stem == samples.items[index].stem
            if index == 2:
                assert image.problem == "image002.jpg is truncated" and image.image is image.label is None
                continue
            _, pixels, label = samples[index]
            assert image.image.dtype == torch.uint8 and image.label.dtype == torch.int32 and not image.problem
            assert (image.image.numpy() == resized(pixels)).all() and (image.label.numpy() == label).all()
            assert np.array_equal(image.pixels, resized(pixels))


def test_several_scales_arrive_as_a_list():
    def pyramid(image):
        return [image[::2, ::2], image]

    with read_ahead(LabelledImages(Samples(1), pyramid), [0], workers=1) as images:
        (image,) = images
    _, pixels, _ = Samples(1)[0]
    assert all((part.numpy() == own).all() for part, own in zip(image.image, pyramid(pixels), strict=True))
    assert np.array_equal(image.pixels, pixels[::2, ::2])


class Facts:
    """Facts about the process that reads."""

    def __getitem__(self, index):
        return index, os.getpid(), cv2.getNumThreads(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_use_one_core_and_leave_control_c_to_their_parent_and_the_order_may_be_endless(workers):
    before = torch.get_rng_state()
    with read_ahead(Facts(), range(5, sys.maxsize, 3), workers=workers) as samples:
        first = list(itertools.islice(samples, 6))
    assert [index for index, *_ in first] == [5, 8, 11, 14, 17, 20]
    assert len({process for _, process, *_ in first}) == max(1, workers)
    if workers:
        assert all((threads, ignored) == (1, True) for *_, threads, ignored in first)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are left alone


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda:1", True), ("mps", False)])
def test_memory_is_pinned_for_a_gpu(device, pinned):
    assert make_loader(Samples(1), [0], 0, torch.device(device)).pin_memory == pinned


def test_how_many_workers(monkeypatch):
    monkeypatch.setattr("proxyclip.evaluation.reading.cores_each", lambda processes: 24 // processes)
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert [choose_workers(None, gpu, processes) for processes in (1, 8)] == [8, 3]
    assert choose_workers(None, cpu, 1) == 1 and choose_workers(0, gpu, 1) == 0 and choose_workers(20, cpu, 8) == 20


class Broken(Samples):
    """Its third image raises an error."""

    def __init__(self, error: Exception):
        super().__init__(5)
        self.error = error

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("error", [InputError("this is wrong"), NotFound("there is no such file")])
def test_errors_of_a_sample_stay_what_they_are(error, workers):
    with pytest.raises(type(error)) as raised, read_ahead(Broken(error), range(5), workers=workers) as samples:
        list(samples)
    assert str(raised.value) == str(error) and multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_no_one_foresaw_arrives_and_ends_the_workers(workers):
    broken = LabelledImages(Broken(RuntimeError("no sentence for 2")))
    with (
        pytest.raises(RuntimeError, match="no sentence for 2"),
        read_ahead(broken, range(5), workers=workers) as images,
    ):
        assert [next(images).stem for _ in range(2)] == ["folder/image000", "folder/image001"]
        next(images)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("taken", [1, 5])
def test_left_early_it_leaves_nothing_running(taken):
    threads = set(threading.enumerate())
    with read_ahead(LabelledImages(Samples(1000)), range(1000), workers=2) as images:
        for _ in range(taken):
            next(images)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []
    assert eventually(lambda: set(threading.enumerate()) <= threads)  # a closed queue's thread ends a moment later


def test_workers_survive_control_c():
    with read_ahead(LabelledImages(Samples(30)), range(30), workers=2) as images:
        before = [next(images) for _ in range(3)]  # from both workers: both are prepared
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
        assert len([*before, *images]) == 30


def large(image):
    """About 2 MB."""
    return resize(image, scaled_size(*image.shape[:2], 800))


def kill_a_worker(seed: int) -> None:
    """Kills a worker at a random moment: while it starts, reads, waits, or is halfway through sending an image."""
    dice = random.Random(seed)
    dataset = LabelledImages(Samples(40), dice.choice([resized, large]))
    try:
        with read_ahead(dataset, range(40), workers=2, advice="try again") as images:
            next(images)
            time.sleep(dice.uniform(0, 0.01))
            os.kill(dice.choice(multiprocessing.active_children()).pid, signal.SIGKILL)
            list(images)  # the last ones may have been sent already
    except InputError as error:
        assert re.match(SENTENCE, str(error))
    assert multiprocessing.active_children() == []


class Deadly(Samples):
    """Its fourth image ends the process that reads it, as a machine does that is out of memory."""

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def read_deadly(_) -> None:
    reading = read_ahead(LabelledImages(Deadly(6)), range(6), workers=1, advice="try again")
    with pytest.raises(InputError, match=SENTENCE), reading as images:
        list(images)
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_at_any_moment_is_one_sentence():
    """In processes of their own: what hangs here would hang for ever."""
    context = multiprocessing.get_context("fork")
    trials = [
        context.Process(target=work, args=(seed,)) for seed, work in enumerate([read_deadly, *12 * [kill_a_worker]])
    ]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join(60)
        trial.kill()
        trial.join()
    assert [trial.exitcode for trial in trials] == [0] * len(trials)


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
