"""What worker processes do for everybody who uses them; order, errors and their end are tested with real readers."""

import itertools
import os
import signal
import sys

import cv2
import pytest

from proxyclip.workers import in_order


def results(compute, items, workers=1, finish=lambda result: result):
    return in_order(compute, items, workers, finish, "try again")


def facts(_):
    """Of the process that computes."""
    return os.getpid(), cv2.getNumThreads(), signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_uses_one_core_and_leaves_control_c_to_its_parent():
    before = facts(0)
    (worker,) = results(facts, [0])
    assert worker[0] != before[0] and worker[1] == 1 and signal.SIGINT in worker[2]
    assert facts(0) == before and signal.SIGINT not in before[2]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_finished_in_this_process(workers):
    finished = list(results(str, range(7), workers, lambda text: (text, os.getpid())))
    assert finished == [(str(item), os.getpid()) for item in range(7)]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_may_be_endless(workers):
    stream = results(hash, range(5, sys.maxsize, 3), workers)
    assert list(itertools.islice(stream, 6)) == [5, 8, 11, 14, 17, 20]
    stream.close()
