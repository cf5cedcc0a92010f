"""The loop between a model and a benchmark: counting, leaving out, stopping and going on."""

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import fake_benchmark
import numpy as np
import pytest
import ranks_helper
import torch
from fake_benchmark import CLASSES, Samples, predict, resized

from proxyclip.errors import InputError
from proxyclip.evaluation.counting import Settings, one_by_one
from proxyclip.evaluation.evaluate import evaluate
from proxyclip.evaluation.partial_counts import Progress

IN_PROCESS = Settings(workers=0, save_every=0)
PROTOCOL = {"config": "fake"}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_counted_once_at_its_labels_size(workers):
    total = evaluate(one_by_one(predict), Samples(13), CLASSES, resized, Settings(workers=workers))
    assert (total.matrix == fake_benchmark.expected(range(13))).all()
    assert list(total.images) == [item.stem for item in Samples(13).items]
    assert total.skipped == {} and total.seconds > 0


def test_limit():
    total = evaluate(one_by_one(predict), Samples(13), CLASSES, resized, IN_PROCESS, limit=4)
    assert (total.matrix == fake_benchmark.expected(range(4))).all()


def test_scores_of_single_images_tell_which_are_worst():
    samples, order = Samples(3), iter(range(3))

    def all_right_but_the_second(image, size, stem):
        index = next(order)
        return samples[index][2] if index != 1 else (samples[index][2] + 1) % CLASSES

    total = evaluate(one_by_one(all_right_but_the_second), samples, CLASSES, resized, IN_PROCESS)
    assert [total.images[item.stem] for item in samples.items] == [(100, 100), (0, 0), (100, 100)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_with_its_name(workers):
    with pytest.raises(
        InputError, match=r"^image004.jpg is truncated \(rerun with --resume --skip-bad to skip such images\)$"
    ):
        evaluate(one_by_one(predict), Samples(9, broken=[4]), CLASSES, resized, Settings(workers=workers))


def test_skip_bad_counts_and_names():
    total = evaluate(
        one_by_one(predict), Samples(9, broken=[4, 7]), CLASSES, resized, Settings(workers=1, skip_bad=True)
    )
    assert total.skipped == {
        "folder/image004": "image004.jpg is truncated",
        "folder/image007": "image007.jpg is truncated",
    }
    assert (total.matrix == fake_benchmark.expected([0, 1, 2, 3, 5, 6, 8])).all()


def test_what_was_skipped_is_looked_at_again_without_skip_bad(tmp_path):
    """And what was counted before an image stopped the run is not counted again with it."""
    skipping = Settings(workers=0, save_every=0, skip_bad=True)

    def go_on(settings, broken):
        return evaluate(
            one_by_one(predict),
            Samples(6, broken),
            CLASSES,
            resized,
            settings,
            Progress(tmp_path, PROTOCOL),
            resume="resume",
        )

    with pytest.raises(InputError, match="image003"):
        go_on(IN_PROCESS, [3])
    assert list(go_on(skipping, [0, 1, 2, 3]).skipped) == ["folder/image003"]
    for _ in range(2):
        total = go_on(IN_PROCESS, [0, 1, 2, 4, 5])
        assert (total.matrix == fake_benchmark.expected(range(6))).all() and not total.skipped


def stopping_after(count):
    """A model that breaks down after `count` images."""
    left = [count]

    def predict_or_break(image, size, stem):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("broken")
        return predict(image, size)

    return predict_or_break


def test_the_next_image_is_predicted_while_one_is_counted():
    both_are_here, predicted, written = threading.Barrier(2), [], []

    def predict_and_wait(image, size, stem):
        predicted.append(size)
        assert len(predicted) - len(written) <= 2  # no heap of images that wait to be counted
        if len(predicted) == 2:
            both_are_here.wait(10)  # breaks if the first image is counted only before or after this
        return predict(image, size)

    def write_and_wait(ready, labels):
        if not written:
            both_are_here.wait(10)
        written.append(ready.stem)

    samples = Samples(9)
    total = evaluate(
        one_by_one(predict_and_wait), samples, CLASSES, resized, Settings(workers=0, writer=write_and_wait)
    )
    assert (total.matrix == fake_benchmark.expected(range(9))).all()
    assert written == [item.stem for item in samples.items]


@pytest.mark.parametrize("images", [5, 6, 12])  # the last one, the last but one, one in the midst
def test_an_error_in_counting_ends_the_run_at_once(tmp_path, images):
    predicted = []

    def predict_and_note(image, size, stem):
        predicted.append(size)
        return predict(image, size)

    def write_four(ready, labels):
        if ready.stem == "folder/image004":
            raise InputError("image004.png cannot be written")

    settings = Settings(workers=0, writer=write_four)
    with pytest.raises(InputError, match="^image004.png cannot be written$"):
        evaluate(
            one_by_one(predict_and_note), Samples(images), CLASSES, resized, settings, Progress(tmp_path, PROTOCOL)
        )
    assert len(predicted) <= 6
    saved = Progress(tmp_path, PROTOCOL).earlier(CLASSES)
    assert len(saved.images) == 4 and (saved.matrix == fake_benchmark.expected(range(4))).all()


def break_down(image, size, stem):
    raise RuntimeError("broken")


@pytest.mark.parametrize("model, broken", [(break_down, []), (predict, [4])])
def test_after_an_error_nothing_is_left_running(model, broken):
    threads = set(threading.enumerate())
    with pytest.raises((RuntimeError, InputError)) as error:
        evaluate(one_by_one(model), Samples(1000, broken), CLASSES, resized, Settings(workers=2))
    assert multiprocessing.active_children() == []
    assert fake_benchmark.eventually(lambda: set(threading.enumerate()) <= threads)
    assert error  # while it lives its traceback keeps all that evaluate() had


def test_interrupted_by_the_keyboard_it_saves_whole_images(tmp_path):
    left = [7]

    def predict_or_interrupt(image, size, stem):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return predict(image, size)

    settings = Settings(workers=2, save_every=3600)
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            one_by_one(predict_or_interrupt), Samples(12), CLASSES, resized, settings, Progress(tmp_path, PROTOCOL)
        )
    saved = Progress(tmp_path, PROTOCOL).earlier(CLASSES)
    assert len(saved.images) == 7 and (saved.matrix == fake_benchmark.expected(range(7))).all()


def test_resume_counts_only_what_is_missing(tmp_path):
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(one_by_one(stopping_after(7)), Samples(12), CLASSES, resized, IN_PROCESS, Progress(tmp_path, PROTOCOL))
    total = evaluate(
        one_by_one(stopping_after(5)),
        Samples(12),
        CLASSES,
        resized,
        IN_PROCESS,
        Progress(tmp_path, PROTOCOL),
        resume="resume",
    )
    assert (total.matrix == fake_benchmark.expected(range(12))).all()
    assert len(total.images) == 12


def test_what_a_stopped_run_counted_is_lost_only_to_those_who_say_so(tmp_path):
    def run(resume):
        progress = Progress(tmp_path, PROTOCOL)
        return evaluate(
            one_by_one(stopping_after(7)), Samples(12), CLASSES, resized, IN_PROCESS, progress, resume=resume
        )

    with pytest.raises(RuntimeError):
        run("refuse")
    with pytest.raises(InputError, match="interrupted after 7 images: --resume continues it, --restart discards it"):
        run("refuse")
    with pytest.raises(RuntimeError):
        run("restart")  # begins anew, and so stops at the same place
    assert len(run("resume").images) == 12


def test_another_protocol_never_goes_on_with_it(tmp_path):
    with pytest.raises(RuntimeError):
        evaluate(one_by_one(stopping_after(7)), Samples(12), CLASSES, resized, IN_PROCESS, Progress(tmp_path, PROTOCOL))
    for other in ({"config": "other"}, {"config": "fake", "weights": "abc"}):
        progress = Progress(tmp_path, other)
        with pytest.raises(RuntimeError):  # all 12 are still to be done
            evaluate(
                one_by_one(stopping_after(11)), Samples(12), CLASSES, resized, IN_PROCESS, progress, resume="resume"
            )


def observed_run(ranks, workdir: Path, calls) -> None:
    """A run of 300 images that saves after each of them, and says when it looks at one; rank 0 writes the result."""
    torch.set_num_threads(1)

    def predict_and_say(image, size, stem):
        calls.release()
        time.sleep(0.002)
        return predict(image, size)

    progress = Progress(workdir, PROTOCOL)
    total = evaluate(
        one_by_one(predict_and_say), Samples(300), CLASSES, resized, IN_PROCESS, progress, resume="resume", ranks=ranks
    )
    if ranks.first:
        assert len(total.images) == 300
        np.save(workdir / "result.npy", total.matrix)


def test_killed_at_twenty_random_moments_the_result_is_the_same(tmp_path):
    """Kill -9 within the first images of each attempt, and on with one, two or three processes."""
    dice, calls = random.Random(0), multiprocessing.get_context("fork").Semaphore(0)
    counted = set()
    for attempt in range(20):
        processes = ranks_helper.start(1 + attempt % 3, observed_run, tmp_path, calls)
        for _ in range(dice.randint(1, 8)):
            assert calls.acquire(timeout=60)
        time.sleep(dice.uniform(0, 0.006))  # anywhere in the prediction, the counting or the saving of an image
        ranks_helper.kill(processes)
        before, counted = counted, Progress(tmp_path, PROTOCOL).earlier(CLASSES).done
        assert before <= counted  # nothing that was saved is lost
    assert 20 < len(counted) < 300
    ranks_helper.finish(ranks_helper.start(2, observed_run, tmp_path, calls))
    assert (np.load(tmp_path / "result.npy") == fake_benchmark.expected(range(300))).all()


def resumed(folder: Path, images: int):
    """A resumed run of 12 images that may evaluate so many."""
    progress = Progress(folder, PROTOCOL)
    return evaluate(
        one_by_one(stopping_after(images)), Samples(12), CLASSES, resized, IN_PROCESS, progress, resume="resume"
    )


def holding(workdir: Path, there) -> None:
    """Holds the lock, and has a forked process as a run has workers."""
    with Progress(workdir, PROTOCOL).locked():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        there.send(child.pid)
        time.sleep(60)


def test_a_run_excludes_another_one_of_the_same_protocol(tmp_path):
    here, there = multiprocessing.get_context("fork").Pipe()
    other = multiprocessing.get_context("fork").Process(target=holding, args=(tmp_path, there))
    other.start()
    child = here.recv()
    for resume in ("refuse", "resume", "restart"):
        with pytest.raises(
            InputError, match=f"another process is running the same evaluation in {tmp_path}: wait for it"
        ):
            evaluate(
                one_by_one(predict), Samples(3), CLASSES, resized, IN_PROCESS, Progress(tmp_path, PROTOCOL), resume
            )
    evaluate(one_by_one(predict), Samples(3), CLASSES, resized, IN_PROCESS, Progress(tmp_path, {"config": "other"}))
    Progress(tmp_path, PROTOCOL).clear()  # leaves what is in use, and says nothing
    other.kill()
    other.join()
    assert len(resumed(tmp_path, 12).images) == 12  # a killed process holds no lock, nor do its workers
    os.kill(child, signal.SIGKILL)
    Progress(tmp_path, PROTOCOL).clear()
    assert [path.suffix for path in (tmp_path / "progress").iterdir()] == [""]  # of the other protocol


def test_a_disk_without_locks(tmp_path, capsys, monkeypatch):
    def unsupported(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("proxyclip.evaluation.run_lock.lock", unsupported)
    assert len(resumed(tmp_path, 12).images) == 12
    assert "progress has no file locks (No locks available): start each run only once" in capsys.readouterr().err


def test_only_known_ways_to_resume():
    with pytest.raises(InputError, match="resume must be one of refuse, resume, restart, not True"):
        evaluate(one_by_one(predict), Samples(3), CLASSES, resized, IN_PROCESS, resume=True)


def run_on_full_disk(ranks, workdir: Path) -> None:
    """The disk is full after 4 images: files cannot grow beyond what is there then."""
    import resource

    def filling(image, size, stem, left=[4]):  # noqa: B006
        left[0] -= 1
        if left[0] == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        return predict(image, size)

    with pytest.raises(InputError, match=r"cannot write progress to .*File too large.* rerun with --resume"):
        evaluate(one_by_one(filling), Samples(12), CLASSES, resized, IN_PROCESS, Progress(workdir, PROTOCOL))


def test_disk_full_loses_nothing_that_was_saved(tmp_path):
    ranks_helper.finish(ranks_helper.start(1, run_on_full_disk, tmp_path))
    assert not list(tmp_path.rglob("*.tmp"))
    count = len(Progress(tmp_path, PROTOCOL).earlier(CLASSES).images)
    assert count in (2, 3)  # the third image is counted while the fourth fills the disk
    rest = stopping_after(12 - count)
    total = evaluate(
        one_by_one(rest), Samples(12), CLASSES, resized, IN_PROCESS, Progress(tmp_path, PROTOCOL), resume="resume"
    )
    assert (total.matrix == fake_benchmark.expected(range(12))).all()


def test_progress_lines_in_a_log(capsys):
    evaluate(one_by_one(predict), Samples(5), CLASSES, resized, IN_PROCESS, name="fake")
    line = capsys.readouterr().err.strip()
    assert line.startswith("fake: 5/5 images, ") and line.endswith("images/s, 00:00 left")
