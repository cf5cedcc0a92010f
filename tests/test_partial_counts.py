"""Progress on disk: the matrix and the names always belong together, wherever a save was interrupted."""

import copy
import re
from pathlib import Path

import fake_benchmark
import numpy as np
import pytest
from fake_benchmark import CLASSES, Samples, predict, resized

from proxyclip.errors import InputError
from proxyclip.evaluation import progress_file
from proxyclip.evaluation.counting import Settings, one_by_one
from proxyclip.evaluation.evaluate import evaluate
from proxyclip.evaluation.partial_counts import Counts, Progress
from proxyclip.evaluation.progress_file import names_of

PROTOCOL = {"config": "fake"}
STEMS = [item.stem for item in Samples(12).items]


def counts_of(indices) -> Counts:
    return Counts(fake_benchmark.expected(indices), {STEMS[i]: (i / 3, float("nan")) for i in indices})


def saved(folder: Path, session: int, rank: int, indices) -> Path:
    """A file of progress that holds the counts of those images."""
    progress = Progress(folder, PROTOCOL)
    progress.session = session
    progress.save(counts_of(indices), rank)
    return progress.folder / f"{session:04d}-{rank:04d}.npz"


def resumed(folder: Path, images: int) -> None:
    """Resumes a run of 12 images that evaluates exactly so many; the result must be that of all 12."""
    evaluated = []

    def predict_and_note(image, size, stem):
        evaluated.append(stem)
        return predict(image, size)

    settings, progress = Settings(workers=0, save_every=0), Progress(folder, PROTOCOL)
    total = evaluate(one_by_one(predict_and_note), Samples(12), CLASSES, resized, settings, progress, resume="resume")
    assert len(evaluated) == images
    assert (total.matrix == fake_benchmark.expected(range(12))).all() and set(total.images) == set(STEMS)


def test_what_is_saved_in_steps_is_read_back_as_a_whole(tmp_path):
    progress, counts = Progress(tmp_path, PROTOCOL), counts_of([3, 1])
    progress.save(counts, 0)
    counts.images["a \ud800 \n name"] = (100 / 3, 2 / 3)
    counts.skipped["broken"] = 'it is "broken"\n'
    counts.matrix += 2**53 + 1
    counts.seconds = np.float64(0.1)
    progress.save(counts, 0)
    counts.skipped["too"] = "broken too"
    counts.images[STEMS[0]] = (1.0, 2.0)
    progress.save(counts, 0)
    progress.save(counts, 0)  # nothing new
    (line,) = (path.read_text().splitlines()[-1] for path in progress.folder.glob("*.names"))
    assert "broken too" in line  # images first, then what was skipped, of each save
    found = Progress(tmp_path, PROTOCOL).earlier(CLASSES)
    assert (found.matrix == counts.matrix).all() and found.seconds == 0.1
    assert found.skipped == counts.skipped and str(sorted(found.images.items())) == str(sorted(counts.images.items()))


def test_a_save_writes_only_what_is_new(tmp_path, monkeypatch):
    """And does not look at what is there already."""
    progress, counts, dumped = Progress(tmp_path, PROTOCOL), counts_of(range(12)), []
    counts.skipped = {f"bad {i}": "broken" for i in range(5)}
    progress.save(counts, 0)
    dump = progress_file.json.dumps
    monkeypatch.setattr(progress_file.json, "dumps", lambda value: dumped.append(value) or dump(value))
    counts.images["new"] = (1.0, 2.0)
    counts.skipped["bad"] = "why"
    progress.save(counts, 0)
    assert dumped[:2] == [["new", 1.0, 2.0], ("bad", "why")] and len(dumped) == 3


def test_a_kill_between_names_and_matrix_leaves_the_earlier_state(tmp_path, monkeypatch):
    progress, counts = Progress(tmp_path, PROTOCOL), counts_of(range(4))
    progress.save(counts, 0)
    before, more = copy.deepcopy(counts), counts_of(range(7))
    with monkeypatch.context() as patched:
        patched.setattr(progress_file, "write_whole", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            progress.save(more, 0)
    (names,) = progress.folder.glob("*.names")
    assert len(names.read_text().splitlines()) == 7  # ahead of the matrix
    found = Progress(tmp_path, PROTOCOL).earlier(CLASSES)
    assert found.images.keys() == before.images.keys() and (found.matrix == before.matrix).all()
    longer = names.stat().st_size
    counts.images["b"] = (1.0, 2.0)  # the run goes on with other images, in fewer bytes
    progress.save(counts, 0)
    assert names.stat().st_size < longer
    assert [*Progress(tmp_path, PROTOCOL).earlier(CLASSES).images] == [*STEMS[:4], "b"]


def test_names_of_a_run_that_was_killed_before_its_first_matrix_are_written_over(tmp_path):
    progress = Progress(tmp_path, PROTOCOL)
    progress.folder.mkdir(parents=True)
    (progress.folder / "0000-0000.names").write_text('["of another run", 1.0, 1.0]\n' * 20)
    assert progress.earlier(CLASSES).done == set()
    progress.save(counts_of([5]), 0)
    assert [*Progress(tmp_path, PROTOCOL).earlier(CLASSES).images] == [STEMS[5]]


def test_a_file_cut_anywhere_never_gives_a_matrix_with_other_names(tmp_path, capsys):
    bad = saved(tmp_path, 0, 0, [0, 1, 2])
    saved(tmp_path, 1, 1, [3, 4])
    for path in (names_of(bad), bad):
        whole = path.read_bytes()
        for size in range(0, len(whole), 1 if path != bad else 11):
            path.write_bytes(whole[:size])
            assert Progress(tmp_path, PROTOCOL).earlier(CLASSES).images.keys() == {STEMS[3], STEMS[4]}
            assert f"note: progress file {bad}: is damaged (" in capsys.readouterr().err
        path.write_bytes(whole + b'["tail", 1.0, 1.0]\n{' if path != bad else whole)
    assert len(Progress(tmp_path, PROTOCOL).earlier(CLASSES).images) == 5


def test_sessions_and_ranks_add_up(tmp_path):
    saved(tmp_path, 0, 0, [0, 3])
    saved(tmp_path, 0, 1, [1])
    saved(tmp_path, 1, 0, [7, 8, 9])
    resumed(tmp_path, 6)
    assert sorted(path.stem for path in Progress(tmp_path, PROTOCOL).parts())[-1] == "0002-0000"
    resumed(tmp_path, 0)


def test_progress_that_overlaps_is_left_out_and_evaluated_again(tmp_path, capsys):
    """As it is left by two runs at once in one folder."""
    saved(tmp_path, 0, 0, [0, 1, 2])
    twice = saved(tmp_path, 0, 1, [2, 3, 4])
    saved(tmp_path, 1, 0, [5, 6])
    for images in (7, 0):  # what the first one saves is not left out by the second one
        resumed(tmp_path, images)
        note = f"note: progress file {twice}: image folder/image002 is counted twice; its images are evaluated again"
        assert note in capsys.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def flip_matrix(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1
    path.write_bytes(content)


def flip_names(path):
    content = bytearray(names_of(path).read_bytes())
    content[content.index(b"image003") + 7] ^= 1  # another image's name
    names_of(path).write_bytes(content)


def no_names(path):
    names_of(path).unlink()


def other_classes(path):
    path.unlink()
    progress_file.ProgressFile(path).save(np.zeros((3, 3), np.int64), {}, {}, 0.0)


def no_facts(path):
    np.savez(path, matrix=fake_benchmark.expected([3]))


@pytest.mark.parametrize("damage", [cut, flip_matrix, flip_names, no_names, other_classes, no_facts])
def test_damaged_progress_is_left_out_and_evaluated_again(damage, tmp_path, capsys):
    saved(tmp_path, 0, 0, [0, 1, 2])
    damage(bad := saved(tmp_path, 0, 1, [3, 4]))
    resumed(tmp_path, 9)
    assert re.search(f"note: progress file {bad}: is damaged .*evaluated again", capsys.readouterr().err)


def test_progress_of_an_earlier_version_is_evaluated_again(tmp_path, capsys):
    facts = '{"images": {"folder/image003": [1.0, 1.0]}, "skipped": {}, "seconds": 1.0}'
    path = saved(tmp_path, 0, 0, [3])
    np.savez(path, matrix=fake_benchmark.expected([3]), facts=np.array(facts))
    resumed(tmp_path, 12)
    note = f"note: progress file {path}: was written by an earlier version; its images are evaluated again"
    assert note in capsys.readouterr().err


def test_names_that_cannot_be_written(tmp_path):
    """One sentence, and the next save makes up for it."""
    progress, counts = Progress(tmp_path, PROTOCOL), counts_of([0])
    progress.save(counts, 0)
    (names,) = progress.folder.glob("*.names")
    content = names.read_bytes()
    names.unlink()
    names.mkdir()
    counts.images[STEMS[1]] = (1.0, 1.0)
    with pytest.raises(InputError, match="cannot write progress to .*; earlier progress is intact: fix this, then rer"):
        progress.save(counts, 0)
    names.rmdir()
    names.write_bytes(content)
    progress.save(counts, 0)
    assert [*Progress(tmp_path, PROTOCOL).earlier(CLASSES).images] == STEMS[:2]


def test_counts_add_up_in_place_and_as_a_value():
    first, second = counts_of([0, 1]), counts_of([2])
    first.skipped, second.skipped = {STEMS[2]: "late", "x": "bad"}, {STEMS[0]: "late", "y": "bad"}
    before = copy.deepcopy(first)
    total = first + second
    assert str(first) == str(before)
    assert [*total.images] == STEMS[:3] and total.skipped == {"x": "bad", "y": "bad"}
    assert (total.matrix == fake_benchmark.expected(range(3))).all()
    matrix = first.matrix
    first += second
    assert str(first) == str(total) and (matrix == before.matrix).all()  # whoever has the matrix keeps it
    with pytest.raises(ValueError, match="image folder/image002 is counted twice"):
        first += second
    assert str(first) == str(total)
