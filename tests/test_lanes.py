"""Two batches at a time on a CPU: the same results in the same order, and nothing of it leaks into other threads."""

import threading

import numpy as np
import pytest
import torch

import proxyclip
from proxyclip.batches import Batches
from proxyclip.lanes import LANES, lanes_for, submit
from proxyclip.sliding import SlidingWindows, score_images

CPU, GREY, WINDOWS = torch.device("cpu"), torch.full((3,), 0.5), SlidingWindows(10, 6, 1)


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def test_two_threads_with_half_of_the_threads_each():
    pool, here = lanes_for(CPU), threading.Barrier(LANES)

    def look() -> tuple:
        here.wait(10)  # breaks unless both run at once
        return torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()

    found = [future.result() for future in [submit(pool, look) for _ in range(LANES)]]
    assert [one[:2] for one in found] == [(2, False)] * 2 and len({one[2] for one in found}) == 2
    assert lanes_for(CPU) is pool and torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start(), thread.join()
    assert later == [4]


def test_where_one_batch_at_a_time_is_computed():
    assert lanes_for(CPU) is None  # gradients
    with torch.no_grad():
        assert lanes_for(torch.device("meta")) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert lanes_for(CPU) is None
        torch.set_num_threads(1)
        assert lanes_for(CPU) is None


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_images_come_in_order_whichever_batch_is_ready_first(batch):
    delays, sizes = np.random.default_rng(0), [(10, 16), (6, 6), (22, 10), (10, 10)] * 8

    def slow(crops):
        threading.Event().wait(delays.uniform(0, 0.004))
        return crops.mean((2, 3), keepdim=True)

    images = [torch.full((3, *size), index / 100) for index, size in enumerate(sizes)]
    found = list(score_images(slow, images, WINDOWS, GREY, Batches(batch), pool=lanes_for(CPU)))
    assert [one.views[0].size for one in found] == sizes
    for index, scores in enumerate(found):
        torch.testing.assert_close(scores.views[0].scores, torch.full_like(scores.views[0].scores, index / 100))


@torch.no_grad()
def test_few_images_are_taken_ahead():
    taken = []

    def images():
        for index in range(100):
            taken.append(index)
            yield torch.zeros(3, 10, 10)

    stream = score_images(lambda crops: crops, images(), WINDOWS, GREY, Batches(4), pool=lanes_for(CPU))
    next(stream)
    assert len(taken) <= 4 * (LANES + 1)


@torch.no_grad()
def test_an_error_of_a_batch_is_raised():
    def broken(crops):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(score_images(broken, [torch.zeros(3, 10, 10)] * 9, WINDOWS, GREY, Batches(2), pool=lanes_for(CPU)))


def test_a_model_uses_them(monkeypatch):
    model, threads = proxyclip.load("mini", method="maskclip", device="cpu"), set()
    window_scores = model.window_scores

    def watched(crops, text):
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return window_scores(crops, text)

    model.window_scores = watched
    model.segment([np.zeros((128, 128, 3), np.uint8)] * 4, ["sky", "sea"])
    assert threads == {"scoring"}
