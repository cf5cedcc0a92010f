"""The loop between a model and a benchmark: counting, leaving out, stopping and going on."""

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
from fake_benchmark import CLASSES, Samples, one_by_one, predict, resized

from proxyclip.errors import InputError
from proxyclip.evaluation.loop import MAX_PENDING, evaluate
from proxyclip.evaluation.progress import Progress

PROTOCOL = {"config": "fake"}


def run(samples, model=predict, workdir=None, **options):
    """The counts of an evaluation of resized samples by a function of one image, with progress in `workdir`."""
    progress = Progress(workdir, PROTOCOL) if workdir else None
    return evaluate(one_by_one(model), samples, CLASSES, resize=resized, progress=progress, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_counted_once_at_its_labels_size(workers):
    total = run(Samples(13), workers=workers)
    assert (total.matrix == fake_benchmark.expected(range(13))).all()
    assert list(total.images) == [item.stem for item in Samples(13).items]
    assert total.skipped == {} and total.seconds > 0


def test_limit():
    total = run(Samples(13), limit=4)
    assert (total.matrix == fake_benchmark.expected(range(4))).all()


def test_scores_of_single_images_tell_which_are_worst():
    samples, order = Samples(3), iter(range(3))

    def all_right_but_the_second(image, size, stem):
        index = next(order)
        return samples[index][2] if index != 1 else (samples[index][2] + 1) % CLASSES

    total = run(samples, all_right_but_the_second)
    assert [total.images[item.stem] for item in samples.items] == [(100, 100), (0, 0), (100, 100)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_with_its_name(workers):
    with pytest.raises(
        InputError, match=r"^image004.jpg is truncated \(rerun with --resume --skip-bad to skip such images\)$"
    ):
        run(Samples(9, broken=[4]), workers=workers)


def test_skip_bad_counts_and_names():
    total = run(Samples(9, broken=[4, 7]), workers=1, skip_bad=True)
    assert total.skipped == {
        "folder/image004": "image004.jpg is truncated",
        "folder/image007": "image007.jpg is truncated",
    }
    assert (total.matrix == fake_benchmark.expected([0, 1, 2, 3, 5, 6, 8])).all()


def test_what_was_skipped_is_looked_at_again_without_skip_bad(tmp_path):
    """And what was counted before an image stopped the run is not counted again with it."""

    def go_on(broken, skip_bad=False):
        return run(Samples(6, broken), workdir=tmp_path, skip_bad=skip_bad, resume="resume")

    with pytest.raises(InputError, match="image003"):
        go_on([3])
    assert list(go_on([0, 1, 2, 3], skip_bad=True).skipped) == ["folder/image003"]
    for _ in range(2):
        total = go_on([0, 1, 2, 4, 5])
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


def test_the_next_images_are_predicted_while_one_is_counted():
    both_are_here, predicted, written = threading.Barrier(2), [], []

    def predict_and_wait(image, size, stem):
        predicted.append(size)
        assert len(predicted) - len(written) <= MAX_PENDING + 1  # no heap of images that wait to be counted
        if len(predicted) == 2:
            both_are_here.wait(10)  # breaks if the first image is counted only before or after this
        return predict(image, size)

    def write_and_wait(image, labels):
        if not written:
            both_are_here.wait(10)
        written.append(image.stem)

    samples = Samples(9)
    total = run(samples, predict_and_wait, write=write_and_wait)
    assert (total.matrix == fake_benchmark.expected(range(9))).all()
    assert written == [item.stem for item in samples.items]


@pytest.mark.parametrize("images", [5, 6, 20])  # the last one, the last but one, one in the midst
def test_an_error_in_counting_ends_the_run_at_once(tmp_path, images):
    predicted = []

    def predict_and_note(image, size, stem):
        predicted.append(size)
        return predict(image, size)

    def write_four(image, labels):
        if image.stem == "folder/image004":
            raise InputError("image004.png cannot be written")

    with pytest.raises(InputError, match="^image004.png cannot be written$"):
        run(Samples(images), predict_and_note, tmp_path, write=write_four)
    assert len(predicted) <= 5 + MAX_PENDING + 1
    check_saved(tmp_path, at_least=4)


def check_saved(folder: Path, at_least: int) -> None:
    """The images that are saved are counted as a whole."""
    saved = Progress(folder, PROTOCOL).read(CLASSES)
    stems = [item.stem for item in Samples(1000).items]
    assert len(saved.images) >= at_least
    assert (saved.matrix == fake_benchmark.expected(map(stems.index, saved.images))).all()


def break_down(image, size, stem):
    raise RuntimeError("broken")


@pytest.mark.parametrize("model, broken", [(break_down, []), (predict, [4])])
def test_after_an_error_nothing_is_left_running(model, broken):
    threads = set(threading.enumerate())
    with pytest.raises((RuntimeError, InputError)) as error:
        run(Samples(1000, broken), model, workers=2)
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

    with pytest.raises(KeyboardInterrupt):
        run(Samples(12), predict_or_interrupt, tmp_path, workers=2)
    check_saved(tmp_path, at_least=7 - MAX_PENDING)


def stop_a_run(folder: Path) -> int:
    """Leaves the progress of a run of 12 images that stopped after some of them; how many are saved."""
    with pytest.raises(RuntimeError, match="broken"):
        run(Samples(12), stopping_after(7), folder)
    count = len(Progress(folder, PROTOCOL).read(CLASSES).images)
    assert 7 - MAX_PENDING <= count <= 7
    return count


def test_resume_counts_only_what_is_missing(tmp_path):
    counted = stop_a_run(tmp_path)
    total = run(Samples(12), stopping_after(12 - counted), tmp_path, resume="resume")
    assert (total.matrix == fake_benchmark.expected(range(12))).all()
    assert len(total.images) == 12


def test_what_a_stopped_run_counted_is_lost_only_to_those_who_say_so(tmp_path):
    count = stop_a_run(tmp_path)
    sentence = f"interrupted after {count} images: --resume continues it, --restart discards it"
    with pytest.raises(InputError, match=sentence):
        run(Samples(12), workdir=tmp_path)
    with pytest.raises(RuntimeError):
        run(Samples(12), stopping_after(11), tmp_path, resume="restart")  # all 12 are still to be done
    assert len(run(Samples(12), workdir=tmp_path, resume="resume").images) == 12


def test_another_protocol_never_goes_on_with_it(tmp_path):
    stop_a_run(tmp_path)
    for other in ({"config": "other"}, {"config": "fake", "weights": "abc"}):
        progress = Progress(tmp_path, other)
        with pytest.raises(RuntimeError):  # all 12 are still to be done
            evaluate(one_by_one(stopping_after(11)), Samples(12), CLASSES, progress=progress, resume="resume")


def observed_run(ranks, workdir: Path, calls) -> None:
    """A run of 300 images that says when it looks at one; rank 0 writes the result."""
    torch.set_num_threads(1)

    def predict_and_say(image, size, stem):
        calls.release()
        time.sleep(0.002)
        return predict(image, size)

    total = run(Samples(300), predict_and_say, workdir, resume="resume", ranks=ranks)
    if ranks.is_main:
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
        before, counted = counted, Progress(tmp_path, PROTOCOL).read(CLASSES).done
        assert before <= counted  # nothing that was saved is lost
    assert 20 < len(counted) < 300
    ranks_helper.finish(ranks_helper.start(2, observed_run, tmp_path, calls))
    assert (np.load(tmp_path / "result.npy") == fake_benchmark.expected(range(300))).all()


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
            run(Samples(3), workdir=tmp_path, resume=resume)
    evaluate(one_by_one(predict), Samples(3), CLASSES, progress=Progress(tmp_path, {"config": "other"}))
    Progress(tmp_path, PROTOCOL).clear()  # leaves what is in use, and says nothing
    other.kill()
    other.join()
    total = run(Samples(12), workdir=tmp_path, resume="resume")  # a killed process holds no lock, nor do its workers
    assert len(total.images) == 12
    os.kill(child, signal.SIGKILL)
    Progress(tmp_path, PROTOCOL).clear()
    assert [path.suffix for path in (tmp_path / "progress").iterdir()] == [""]  # of the other protocol


def test_only_known_ways_to_resume():
    with pytest.raises(InputError, match="resume must be one of refuse, resume, restart, not True"):
        run(Samples(3), resume=True)


def run_on_full_disk(ranks, workdir: Path) -> None:
    """The disk is full after 4 images: files cannot grow beyond what is there then."""
    import resource

    def filling(image, size, stem, left=[4]):  # noqa: B006
        left[0] -= 1
        if left[0] == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
        return predict(image, size)

    with pytest.raises(InputError, match=r"cannot write progress to .*(No space|too large).* rerun with --resume"):
        run(Samples(12), filling, workdir)


def test_disk_full_loses_nothing_that_was_saved(tmp_path):
    ranks_helper.finish(ranks_helper.start(1, run_on_full_disk, tmp_path))
    count = len(Progress(tmp_path, PROTOCOL).read(CLASSES).images)
    assert 1 <= count <= 8
    total = run(Samples(12), stopping_after(12 - count), tmp_path, resume="resume")
    assert (total.matrix == fake_benchmark.expected(range(12))).all()


def test_progress_lines_in_a_log(capsys):
    run(Samples(5), name="fake")
    line = capsys.readouterr().err.strip()
    assert line.startswith("fake: 5/5 images, ") and line.endswith("images/s, 00:00 left")
