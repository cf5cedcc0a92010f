"""read_runs: the starting point for analyses in pandas."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from runs import CHANGED, CHANGED_NAME, B, L, run, without

from configs.published import PUBLISHED
from proxyclip.errors import NotFound
from proxyclip.reports import read_runs
from proxyclip.reports.frames import changes, newest, row_name, runs_frame
from proxyclip.reports.run_log import append_run

HERE = Path(__file__).resolve().parents[1]
ZERO_SHOT = {"zegclip": {"pAcc": 90.0, "hIoU": 68.57}}


@pytest.fixture
def folder(tmp_path):
    missing = {"dataset": "ade20k", "model": "ProxyCLIP", "clip": B, "vfm": "dino-vitb8", "missing": "unpack it"}
    protocol = {"crop": 336, "templates": ["a", "b"]}
    changed = run(iou=90.0, clip=L, vfm=None, changed=CHANGED, zero_shot=ZERO_SHOT, protocol=protocol)
    for line in (run(skipped={"a": "broken"}), changed, missing):
        append_run(tmp_path / "results.jsonl", line)
    return tmp_path


def test_one_row_a_run(folder):
    frame = read_runs(folder)
    pd.testing.assert_frame_equal(frame, read_runs(str(folder / "results.jsonl")))
    assert frame["model"].tolist() == ["ProxyCLIP"] * 3 and frame["row"][1] == CHANGED_NAME
    assert frame["changed"].tolist() == ["", "beta 1.6, short_side 96, split tune", ""]
    assert frame["standard"].tolist() == [True, False, True]
    assert frame["status"].tolist() == ["done", "done", "missing"] and frame["note"][2] == "missing: unpack it"
    assert frame["mIoU"].tolist()[:2] == [50, 90] and pd.isna(frame["mIoU"][2])
    assert frame["vfm"].isna().tolist() == [False, True, False]
    assert (frame["images"][0], frame["skipped"][0], frame["images_per_second"][0]) == (10, 1, 2.5)
    assert frame["started"][0] == pd.Timestamp("2026-01-01 10:00:00") and pd.isna(frame["started"][2])
    assert frame["zero_shot.zegclip.hIoU"].tolist()[1] == 68.57 and pd.isna(frame["zero_shot.zegclip.hIoU"][0])
    assert frame["protocol.crop"][0] == 336 and frame["protocol.templates"][1] == "a, b"
    assert frame["published"].isna().all()
    assert not frame.map(lambda value: isinstance(value, (dict, list))).any(axis=None)


def test_the_documented_columns_are_there(folder):
    named = [line.split("|")[1] for line in read_runs.__doc__.splitlines() if line.strip().startswith("| ")][2:]
    documented = [name.strip() for names in named for name in names.split(",")]
    frame = read_runs(folder)
    plain = [name for name in documented if not name.startswith(("zero_shot.", "protocol."))]
    assert set(plain) == {name for name in frame.columns if not name.startswith(("zero_shot.", "protocol."))}


def test_published_scores_are_looked_up(folder):
    frame = read_runs(folder, PUBLISHED)
    assert frame["published"].tolist()[0] == 80.3 and pd.isna(frame["published"][1]) and frame["published"][2] == 20.2
    assert frame["published_marks"].tolist() == ["", "", ""]


def test_no_file_and_no_runs(tmp_path):
    with pytest.raises(NotFound, match="results.jsonl does not exist: pass a results.jsonl, or the --workdir"):
        read_runs(tmp_path)
    (tmp_path / "results.jsonl").touch()
    frame = read_runs(tmp_path)
    assert frame.empty and frame["mIoU"].dtype == "float64" and "changed" in frame


def test_odd_lines_are_left_out_with_a_warning(folder):
    with open(folder / "results.jsonl", "a") as file:
        file.write("[]\n" * 9)
    with pytest.warns(UserWarning, match=r"line 4, is torn.*\(and 6 more lines\)"):
        assert len(read_runs(folder)) == 3


def test_changed_settings_in_words():
    line = run(changed={"words": None, "bf16": True, "limit": 5, "sizes": [1, 2], "a": {"b": 1}})
    assert changes(line) == 'a {"b": 1}, bf16 yes, first 5 images, sizes 1, 2, words none'
    assert changes(without(line, "changed")) == "protocol not recorded"
    assert changes({"model": "A", "dataset": "voc20", "missing": "unpack it"}) == ""


def test_long_values_that_begin_alike_still_differ():
    short, other = (changes(run(changed={"words": "sky; " * 40 + end})) for end in "ab")
    assert short != other and len(short) < 90


def test_trained_weights_have_rows_of_their_own():
    facts = {"dataset": "voc20", "setting": None, "weights": "1a2b3c"}
    lines = [run(model="ZegCLIP", trained=facts), run(model="ZegCLIP", trained=facts | {"weights": "4d5e6f"}),
             run(model="ZegCLIP", trained=facts, changed={"crop": 64}), run(model="ZegCLIP")]  # fmt: skip
    rows = ["ZegCLIP, voc20 1a2b3c", "ZegCLIP, voc20 4d5e6f", "ZegCLIP, voc20 1a2b3c (crop 64)", "ZegCLIP"]
    assert [row_name(line) for line in lines] == rows == runs_frame(lines, {})["row"].tolist()


def test_newest_runs_come_by_model_standard_ones_first():
    lines = [run(iou=1.0, changed={"beta": 1}), run(iou=2.0, clip=L), run(iou=3.0), run(iou=4.0), run(iou=None)]
    chosen = newest(runs_frame(lines, {}))
    assert chosen["mIoU"].tolist() == [4, 1, 2] and chosen.index.tolist() == [3, 0, 1]


def test_importing_the_reports_leaves_pandas_alone():
    code = "import sys, proxyclip.reports as reports; loaded = 'pandas' in sys.modules; "
    code += "print(loaded, reports.read_runs.__name__, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "read_runs", "True"]


def test_the_frame_goes_through_csv_and_json(folder):
    frame = read_runs(folder)
    assert len(pd.read_csv(pd.io.common.StringIO(frame.to_csv(index=False)))) == 3
    assert json.loads(frame.to_json(orient="records", date_format="iso"))[0]["dataset"] == "voc20"
