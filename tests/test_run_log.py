"""results.jsonl: nothing that was computed is lost, and an odd line stops nothing."""

import copy
import json
import warnings

import numpy as np
import pytest
from runs import run, without

from configs.published import PUBLISHED
from proxyclip.errors import InputError
from proxyclip.evaluation.progress import Counts
from proxyclip.reports import workbook
from proxyclip.reports.frames import read_runs
from proxyclip.reports.html_report import format_run
from proxyclip.reports.run_log import ABSENT, CHECKS, MOST_SETTINGS, append_run, log_entry, parse_run, read_log

DEEP = "[" * 3000 + "]" * 3000
HOSTILE = (
    "null", "3", "-1", "1e999", "NaN", "9" * 400, '"x"', '"=1+1"', r'"\ud800"', r'"\u0000\ufffe"', '""', "true", "[]",
    '[1, "a"]', "{}", '{"a": null}', '{"a": {"b": {"c": 1}}}', '{"": "=1"}', '{"limit": "x"}', DEEP,
    f'{{"a": {DEEP}}}', json.dumps({f"k{i}": i for i in range(2000)}),
)  # fmt: skip


def places(value, path=()):
    """The paths of all fields of nested dicts."""
    for key, item in value.items():
        yield (*path, key)
        if isinstance(item, dict):
            yield from places(item, (*path, key))


LINE = without(run(), "protocol") | {
    "protocol": {"crop": 336, "limit": 5, "templates": ["a", "b"], "nested": {"a": 1}},
    "zero_shot": {"zegclip": {"pAcc": 90.0, "mIoU(S)": 80.0, "mIoU(U)": 60.0, "hIoU": 68.57}},
    "skipped": {"a.jpg": "broken"},
    "changed": {"beta": 1.6, "limit": 5},
    "trained": {"dataset": "voc20", "setting": None, "weights": "1a2b3c"},
    "missing": "x",
    "failed": "y",
    "unknown": 1,
}


def hostile_lines(path):
    for text in HOSTILE:
        line, mark = copy.deepcopy(LINE), "@@mark@@"
        place = line
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = mark
        yield json.dumps(line).replace(f'"{mark}"', text)


@pytest.mark.parametrize("path", list(places(LINE)), ids=lambda path: ".".join(path))
def test_one_odd_line_stops_nothing(tmp_path, path):
    """Any field of a line may hold anything: the line beside it is still in every table."""
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join([json.dumps(run("voc21", 33.0)), *hostile_lines(path), ""]))
    runs, notes = read_log(file)
    assert runs[0]["mIoU"] == 33 and len(runs) + len(notes) == 1 + len(HOSTILE)
    workbook.render(runs, tmp_path / "results.xlsx", PUBLISHED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = read_runs(tmp_path, PUBLISHED)
    assert len(frame) == len(runs) and bool(notes) == any("left out of the tables" in str(w.message) for w in caught)
    for line in runs:
        format_run(line, PUBLISHED).encode()


def test_every_checked_field_refuses_something():
    """A field of the wrong type makes a line invalid; without that a table would meet it."""
    assert parse_run(json.dumps(LINE).encode()) is not None
    for field in CHECKS:
        assert parse_run(json.dumps(LINE | {field: [["odd"]]}).encode()) is None, field


def test_more_settings_than_a_sheet_has_columns_make_a_line_invalid():
    many = {f"field {i}": i for i in range(MOST_SETTINGS + 1)}
    for odd in ({"protocol": many}, {"changed": many}, {"protocol": {"limit": "x"}}):
        assert parse_run(json.dumps(LINE | odd).encode()) is None


def test_a_field_that_is_absent_reads_as_nothing():
    names = {"dataset": "voc20", "model": "A"}
    assert parse_run(json.dumps(names).encode()) == ABSENT | names


def test_lines_that_are_not_runs_are_named(tmp_path):
    path = tmp_path / "results.jsonl"
    append_run(path, run())
    with open(path, "ab") as file:
        file.write(b'{"dataset": "voc\n[1, 2]\n{"dataset": 3, "model": "a"}\n')
        file.write(b'{"dataset": "voc", "model": "a", "mIoU": "high"}\n\xff\n')
    append_run(path, run(iou=60.0))
    runs, notes = read_log(path)
    assert [line["mIoU"] for line in runs] == [50, 60]
    assert [note.split(" is ")[0] for note in notes] == [f"{path}, line {n}," for n in range(2, 7)]


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(run()))
    append_run(path, run(iou=60.0))
    assert [line["mIoU"] for line in read_log(path)[0]] == [50, 60]
    assert not path.with_name("results.jsonl.torn").exists()


def test_a_folder_in_the_place_of_the_file_is_one_sentence(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot read .*results.jsonl"):
        read_log(tmp_path / "results.jsonl")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
        ((1, {2}), [1, [2]]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ("a\ud800b", r"a\ud800b"),
        (10**5000, hex(10**5000)),
        (np.dtype("int8"), "int8"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_json_lacks_are_converted(tmp_path, value, written):
    append_run(tmp_path / "results.jsonl", run(protocol={"value": value}))
    (line,), notes = read_log(tmp_path / "results.jsonl")
    assert line["protocol"] == {"value": written} and line["mIoU"] == 50 and not notes


def test_a_value_that_holds_itself_loses_no_score(tmp_path):
    loop = []
    loop.append(loop)
    append_run(tmp_path / "results.jsonl", run(protocol={"value": loop}))
    assert read_log(tmp_path / "results.jsonl")[0][0]["mIoU"] == 50


def test_the_line_of_a_run(tmp_path):
    """Also of a dataset without a name, and with names that cannot be encoded."""
    counts = Counts(np.array([[3, 1], [0, 4]]), {"a": (1.0, 2.0)}, {"b": "broken \ud800"}, np.float64(2.0))
    names = {"dataset": None, "model": "ProxyCLIP", "clip": "tiny", "vfm": None}
    classes = ("cat", "dog \ud800")
    entry = log_entry(
        names, classes, counts, {"s": ("cat",)}, {"crop": np.int64(8)}, {"beta": 1.6}, "2026-01-01 10:00:00"
    )
    append_run(tmp_path / "results.jsonl", entry)
    (line,), notes = read_log(tmp_path / "results.jsonl")
    assert not notes and line == ABSENT | entry
    assert (line["dataset"], line["changed"], line["protocol"]) == ("None", {"beta": 1.6}, {"crop": 8})
    assert line["per_class"][r"dog \ud800"] == {"IoU": 80.0, "Acc": 100.0, "labelled": 4, "predicted": 5}
    assert line["mIoU"] == 77.5 and line["zero_shot"]["s"]["mIoU(U)"] == 75
