"""The loop between a model and a benchmark: counting, leaving out, stopping and going on."""

import multiprocessing
import random
import threading
import time
from pathlib import Path

import fake_benchmark
import numpy as np
import pytest
import ranks_helper
import tiny_model
import torch
from fake_benchmark import CLASSES, Samples, predict

import proxyclip
from proxyclip.errors import InputError
from proxyclip.evaluation import evaluate as evaluation
from proxyclip.evaluation.evaluate import Settings, evaluate
from proxyclip.evaluation.partial_counts import Progress, Tally

IN_PROCESS = Settings(workers=0, save_every=0)
PROTOCOL = {"config": "fake"}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_counted_once_at_its_labels_size(workers):
    tally = evaluate(predict, Samples(13), CLASSES, 16, Settings(workers=workers))
    assert (tally.matrix == fake_benchmark.expected(range(13))).all()
    assert list(tally.images) == [item.stem for item in Samples(13).items]
    assert tally.skipped == {} and tally.seconds > 0


def test_limit():
    tally = evaluate(predict, Samples(13), CLASSES, 16, IN_PROCESS, limit=4)
    assert (tally.matrix == fake_benchmark.expected(range(4))).all()


def test_scores_of_single_images_tell_which_are_worst():
    samples, order = Samples(3), iter(range(3))

    def all_right_but_the_second(picture, size):
        index = next(order)
        return samples[index][2] if index != 1 else (samples[index][2] + 1) % CLASSES

    tally = evaluate(all_right_but_the_second, samples, CLASSES, 16, IN_PROCESS)
    assert [tally.images[item.stem] for item in samples.items] == [(100, 100), (0, 0), (100, 100)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_with_its_name(workers):
    with pytest.raises(
        InputError, match=r"^image004.jpg is truncated \(--resume --skip-bad goes on without such images\)$"
    ):
        evaluate(predict, Samples(9, broken=[4]), CLASSES, 16, Settings(workers=workers))


def test_skip_bad_counts_and_names():
    tally = evaluate(predict, Samples(9, broken=[4, 7]), CLASSES, 16, Settings(workers=1, skip_bad=True))
    assert tally.skipped == {
        "folder/image004": "image004.jpg is truncated",
        "folder/image007": "image007.jpg is truncated",
    }
    assert (tally.matrix == fake_benchmark.expected([0, 1, 2, 3, 5, 6, 8])).all()


def test_what_was_skipped_is_looked_at_again_without_skip_bad(tmp_path):
    """And what was counted before an image stopped the run is not counted again with it."""
    skipping = Settings(workers=0, save_every=0, skip_bad=True)

    def go_on(settings, broken):
        return evaluate(predict, Samples(6, broken), CLASSES, 16, settings, Progress(tmp_path, PROTOCOL), resume=True)

    with pytest.raises(InputError, match="image003"):
        go_on(IN_PROCESS, [3])
    assert list(go_on(skipping, [0, 1, 2, 3]).skipped) == ["folder/image003"]
    for _ in range(2):
        tally = go_on(IN_PROCESS, [0, 1, 2, 4, 5])
        assert (tally.matrix == fake_benchmark.expected(range(6))).all() and not tally.skipped


def test_predictor_gives_what_segment_gives(tmp_path):
    settings = dict(setting.split("=", 1) for setting in tiny_model.save(tmp_path))
    numbers = {name: int(settings.pop(name)) for name in ("short_side", "crop", "stride")}
    model = proxyclip.load(**settings, **numbers, device="cpu")
    classes = ["cat", "dog; puppy", "sky"]
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    whole = model.segment(image, classes, threshold=0.34)
    for batch_windows in (1, 4):
        labels = evaluation.predictor(model, classes, 0.34, batch_windows)(model.prepare(image), (50, 70))
        assert (labels == whole.labels).mean() > 0.999  # batches of other sizes round differently
    assert len(np.unique(whole.labels)) > 1


def stopping_after(count):
    """A model that breaks down after `count` images."""
    left = [count]

    def predict_or_break(picture, size):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("broken")
        return predict(picture, size)

    return predict_or_break


def test_the_next_image_is_predicted_while_one_is_counted():
    both_are_here, predicted, kept = threading.Barrier(2), [], []

    def predict_and_wait(picture, size):
        predicted.append(size)
        assert len(predicted) - len(kept) <= 2  # no heap of images that wait to be counted
        if len(predicted) == 2:
            both_are_here.wait(10)  # breaks if the first image is counted only before or after this
        return predict(picture, size)

    def keep_and_wait(ready, labels):
        if not kept:
            both_are_here.wait(10)
        kept.append(ready.stem)

    samples = Samples(9)
    tally = evaluate(predict_and_wait, samples, CLASSES, 16, Settings(workers=0, keep=keep_and_wait))
    assert (tally.matrix == fake_benchmark.expected(range(9))).all()
    assert kept == [item.stem for item in samples.items]


@pytest.mark.parametrize("images", [5, 6, 12])  # the last one, the last but one, one in the midst
def test_an_error_in_counting_ends_the_run_at_once(tmp_path, images):
    predicted = []

    def predict_and_note(picture, size):
        predicted.append(size)
        return predict(picture, size)

    def keep_four(ready, labels):
        if ready.stem == "folder/image004":
            raise InputError("image004.png cannot be written")

    settings = Settings(workers=0, keep=keep_four)
    with pytest.raises(InputError, match="^image004.png cannot be written$"):
        evaluate(predict_and_note, Samples(images), CLASSES, 16, settings, Progress(tmp_path, PROTOCOL))
    assert len(predicted) <= 6
    saved = Progress(tmp_path, PROTOCOL).earlier(CLASSES)
    assert len(saved.images) == 4 and (saved.matrix == fake_benchmark.expected(range(4))).all()


def break_down(picture, size):
    raise RuntimeError("broken")


@pytest.mark.parametrize("model, broken", [(break_down, []), (predict, [4])])
def test_after_an_error_nothing_is_left_running(model, broken):
    threads = set(threading.enumerate())
    with pytest.raises((RuntimeError, InputError)) as error:
        evaluate(model, Samples(1000, broken), CLASSES, 16, Settings(workers=2))
    assert multiprocessing.active_children() == []
    assert fake_benchmark.eventually(lambda: set(threading.enumerate()) <= threads)
    assert error  # while it lives its traceback keeps all that evaluate() had


def test_interrupted_by_the_keyboard_it_saves_whole_images(tmp_path):
    left = [7]

    def predict_or_interrupt(picture, size):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return predict(picture, size)

    settings = Settings(workers=2, save_every=3600)
    with pytest.raises(KeyboardInterrupt):
        evaluate(predict_or_interrupt, Samples(12), CLASSES, 16, settings, Progress(tmp_path, PROTOCOL))
    saved = Progress(tmp_path, PROTOCOL).earlier(CLASSES)
    assert len(saved.images) == 7 and (saved.matrix == fake_benchmark.expected(range(7))).all()


def test_resume_counts_only_what_is_missing(tmp_path):
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(stopping_after(7), Samples(12), CLASSES, 16, IN_PROCESS, Progress(tmp_path, PROTOCOL))
    total = evaluate(stopping_after(5), Samples(12), CLASSES, 16, IN_PROCESS, Progress(tmp_path, PROTOCOL), resume=True)
    assert (total.matrix == fake_benchmark.expected(range(12))).all()
    assert len(total.images) == 12


def test_what_a_stopped_run_counted_is_lost_only_to_those_who_say_so(tmp_path):
    def run(resume):
        progress = Progress(tmp_path, PROTOCOL)
        return evaluate(stopping_after(7), Samples(12), CLASSES, 16, IN_PROCESS, progress, resume=resume)

    with pytest.raises(RuntimeError):
        run(None)
    with pytest.raises(InputError, match="stopped after 7 images: --resume goes on with it, --restart gives it up"):
        run(None)
    with pytest.raises(RuntimeError):
        run(False)  # begins anew, and so stops at the same place
    assert len(run(True).images) == 12


def test_another_protocol_never_goes_on_with_it(tmp_path):
    with pytest.raises(RuntimeError):
        evaluate(stopping_after(7), Samples(12), CLASSES, 16, IN_PROCESS, Progress(tmp_path, PROTOCOL))
    for other in ({"config": "other"}, {"config": "fake", "weights": "abc"}):
        progress = Progress(tmp_path, other)
        with pytest.raises(RuntimeError):  # all 12 are still to be done
            evaluate(stopping_after(11), Samples(12), CLASSES, 16, IN_PROCESS, progress, resume=True)


def observed_run(ranks, workdir: Path, calls) -> None:
    """A run of 300 images that saves after each of them, and says when it looks at one; rank 0 writes the result."""
    torch.set_num_threads(1)

    def predict_and_say(picture, size):
        calls.release()
        time.sleep(0.002)
        return predict(picture, size)

    progress = Progress(workdir, PROTOCOL)
    total = evaluate(predict_and_say, Samples(300), CLASSES, 16, IN_PROCESS, progress, resume=True, ranks=ranks)
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


def test_damaged_progress_is_named(tmp_path):
    progress = Progress(tmp_path, PROTOCOL)
    progress.earlier(CLASSES)
    progress.save(Tally.empty(CLASSES), rank=0)
    file = progress.parts()[0]
    file.write_bytes(file.read_bytes()[:100])
    for resume in (True, None):
        with pytest.raises(InputError, match=f"{file.name} is damaged.*--restart"):
            evaluate(predict, Samples(3), CLASSES, 16, IN_PROCESS, Progress(tmp_path, PROTOCOL), resume=resume)
    evaluate(predict, Samples(3), CLASSES, 16, IN_PROCESS, Progress(tmp_path, PROTOCOL), resume=False)


def test_images_counted_twice_are_refused():
    tally = Tally(np.eye(2, dtype=np.int64), {"a": (1.0, 1.0)})
    with pytest.raises(InputError, match="image a is counted twice"):
        tally + tally


def run_on_full_disk(ranks, workdir: Path) -> None:
    """The disk is full after 4 images: files cannot grow beyond what is there then."""
    import resource

    def filling(picture, size, left=[4]):  # noqa: B006
        left[0] -= 1
        if left[0] == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        return predict(picture, size)

    with pytest.raises(InputError, match=r"progress cannot be written to .*File too large.* go on with --resume"):
        evaluate(filling, Samples(12), CLASSES, 16, IN_PROCESS, Progress(workdir, PROTOCOL))


def test_disk_full_loses_nothing_that_was_saved(tmp_path):
    ranks_helper.finish(ranks_helper.start(1, run_on_full_disk, tmp_path))
    assert not list(tmp_path.rglob("*.tmp"))
    saved = len(Progress(tmp_path, PROTOCOL).earlier(CLASSES).images)
    assert saved in (2, 3)  # the third image is counted while the fourth fills the disk
    rest = stopping_after(12 - saved)
    total = evaluate(rest, Samples(12), CLASSES, 16, IN_PROCESS, Progress(tmp_path, PROTOCOL), resume=True)
    assert (total.matrix == fake_benchmark.expected(range(12))).all()


def test_progress_lines_in_a_log(capsys):
    evaluate(predict, Samples(5), CLASSES, 16, IN_PROCESS, name="fake")
    line = capsys.readouterr().err.strip()
    assert line.startswith("fake: 5/5 images, ") and line.endswith("images/s, 00:00 left")
