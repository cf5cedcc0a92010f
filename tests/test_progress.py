"""Progress on disk: each image is counted as a whole or not at all, wherever a process was killed."""

from pathlib import Path

import fake_benchmark
import numpy as np
import pytest
from fake_benchmark import CLASSES, Samples, one_by_one, predict, resized

from proxyclip.errors import InputError
from proxyclip.evaluation.loop import evaluate
from proxyclip.evaluation.progress import Counts, ImageCounts, Progress

PROTOCOL = {"config": "fake"}
STEMS = [item.stem for item in Samples(12).items]


def append(folder: Path, rank: int, indices) -> Path:
    """A new file of progress that holds the counts of those images."""
    progress = Progress(folder, PROTOCOL)
    for index in indices:
        progress.append(ImageCounts.of(STEMS[index], 0.5, fake_benchmark.expected([index])), rank)
    return progress.folder / f"{progress.session}-{rank:04d}.jsonl"


def read(folder: Path) -> Counts:
    return Progress(folder, PROTOCOL).read(CLASSES)


def resume(folder: Path, images: int) -> None:
    """Resumes a run of 12 images that evaluates exactly so many; the result must be that of all 12."""
    evaluated = []

    def predict_and_note(image, size, stem):
        evaluated.append(stem)
        return predict(image, size)

    progress = Progress(folder, PROTOCOL)
    predict_each = one_by_one(predict_and_note)
    total = evaluate(predict_each, Samples(12), CLASSES, resize=resized, progress=progress, resume="resume")
    assert len(evaluated) == images
    assert (total.matrix == fake_benchmark.expected(range(12))).all() and set(total.images) == set(STEMS)


def test_what_is_written_is_read_back(tmp_path):
    progress, matrix = Progress(tmp_path, PROTOCOL), np.zeros((CLASSES, CLASSES), np.int64)
    matrix[1, 3], matrix[4, 4] = 2**53 + 1, 7
    progress.append(ImageCounts.of("a \ud800 \n name", 0.25, matrix), 0)
    progress.append(ImageCounts.of("unlabelled", 0.5, np.zeros_like(matrix)), 1)
    progress.append(ImageCounts("broken", 1.0, 'it is "broken"\n'), 0)
    counts = read(tmp_path)
    assert (counts.matrix == matrix).all() and counts.seconds == 1.75
    assert counts.skipped == {"broken": 'it is "broken"\n'}
    assert set(counts.images) == {"a \ud800 \n name", "unlabelled"} and np.isnan(counts.images["unlabelled"]).all()
    assert counts.images["a \ud800 \n name"] == pytest.approx((100 * 7 / (2**53 + 8), 50))


def test_a_file_holds_a_line_for_each_image_and_only_what_is_not_zero(tmp_path):
    text = append(tmp_path, 0, [3]).read_text()
    assert text.count("\n") == 1 and " 0," not in text.partition("[[")[2] and len(text) < 400


def test_sessions_and_ranks_add_up(tmp_path):
    append(tmp_path, 0, [0, 3])
    append(tmp_path, 1, [1])
    append(tmp_path, 0, [7, 8, 9])
    resume(tmp_path, 6)
    resume(tmp_path, 0)


def test_a_file_cut_anywhere_holds_whole_images(tmp_path, capsys):
    append(tmp_path, 1, [3, 4])
    cut = append(tmp_path, 0, [0, 1, 2])
    whole = cut.read_bytes()
    ends = [index for index in range(len(whole) + 1) if whole[:index].endswith(b"\n")]
    expected = [fake_benchmark.expected([3, 4, *range(complete)]) for complete in range(4)]
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        assert (read(tmp_path).matrix == expected[sum(end <= size for end in ends)]).all()
    assert capsys.readouterr().err == ""
    cut.write_bytes(whole[:-20])
    resume(tmp_path, 8)


def test_two_runs_at_once_count_an_image_once(tmp_path):
    append(tmp_path, 0, [0, 1, 2])
    append(tmp_path, 1, [2, 3, 4])
    resume(tmp_path, 7)


DAMAGED = [b"", b"\0\0\0", b"{", b"3", b"[]", b'["folder/image003"]x', b'["a", 1, "", 1, 1, [99], [1]]', b"\xff",
           b'["a", 1, "", 1, 1, [3, 4], [1, 2, 3]]', b'["a", 1, "", 1, 1, ["x"], [1]]']  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_lines_are_named_and_their_images_evaluated_again(line, tmp_path, capsys):
    path = append(tmp_path, 0, [0, 1, 2])
    first, *others = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, line, *others[1:], b""]))
    resume(tmp_path, 10)
    assert f"note: line 2 of progress file {path} is damaged; its image is evaluated again" in capsys.readouterr().err


def test_progress_that_cannot_be_written(tmp_path):
    (tmp_path / "progress").touch()
    with pytest.raises(InputError, match="cannot write progress to .*; earlier progress is intact: fix this, then rer"):
        append(tmp_path, 0, [0])


def test_an_image_that_was_skipped_once_may_be_counted_by_another_session(tmp_path):
    for skipped_first in (True, False):
        progress = Progress(tmp_path / str(skipped_first), PROTOCOL)
        images = [ImageCounts("a", 0.0, "broken"), ImageCounts.of("a", 0.0, fake_benchmark.expected([0]))]
        for rank, image in enumerate(images if skipped_first else images[::-1]):
            progress.append(image, rank)
        counts = progress.read(CLASSES)
        assert not counts.skipped and (counts.matrix == fake_benchmark.expected([0])).all()
