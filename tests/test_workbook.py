"""The workbook that is made from results.jsonl: which number stands where, and what stands beside it."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import CHANGED, CHANGED_NAME, B, L, rendered, run, table, without

from configs.published import PUBLISHED
from proxyclip.errors import InputError
from proxyclip.reports import workbook

HERE = Path(__file__).resolve().parents[1]
DINO, PROXY = "dino-vitb8", ("ProxyCLIP", B, "dino-vitb8")
ZERO_SHOT = {"pAcc": 90.0, "mIoU(S)": 80.0, "mIoU(U)": 60.0, "hIoU": 68.57}


def bold(cell) -> bool:
    return bool(cell.font.bold)


def test_benchmark_sheet_is_a_papers_table(tmp_path):
    best = {"voc20": run(iou=77.25), "ade20k": run("ade20k", 20.5)}
    others = run(iou=70.0, clip=L), run("ade20k", 24.0, clip=L), run("scenes", 66.0, clip="mini", vfm="dino:mini")
    sheet = rendered(tmp_path, *best.values(), *others)["benchmark"]
    rows = table(sheet)
    ours, paper = rows[PROXY]["voc20"]
    assert (ours.value, ours.number_format, ours.font.bold) == (77.25, "0.00", True)
    assert (paper.value, paper.number_format, paper.font.italic) == (80.3, "0.0", True)
    assert not bold(rows["ProxyCLIP", L, DINO]["voc20"][0]) and bold(rows["ProxyCLIP", L, DINO]["ade20k"][0])
    average, of_paper = rows[PROXY]["average of 2"]
    assert average.value == pytest.approx((77.25 + 20.5) / 2) and of_paper.value == pytest.approx((80.3 + 20.2) / 2)
    assert rows["ProxyCLIP", "mini", "dino:mini"]["average of 2"][0].value is None
    assert [cell.value for cell in sheet[1]][:3] == ["Model", "CLIP", "VFM"]
    assert [cell.value for cell in sheet[2]][3:5] == ["ours", "published"]
    assert sheet.freeze_panes == "D3"
    assert rows["SCLIP", B, "–"]["voc20"][1].value == 80.4 and rows["SCLIP", B, "–"]["voc20"][0].value is None


def test_published_numbers_never_stand_among_ours(tmp_path):
    for names, cells in table(rendered(tmp_path, run())["benchmark"]).items():
        for name, (ours, _) in cells.items():
            if ours.value is not None:
                assert names == PROXY and name in ("voc20", "average of 1")


def test_a_changed_run_has_a_row_of_its_own(tmp_path):
    """Newer and better than the standard run, it does not replace it, is not bold, and has no published score."""
    book = rendered(tmp_path, run(iou=50.0), run(iou=90.0, changed=CHANGED), run("ade20k", 60.0, changed=CHANGED))
    rows = table(book["benchmark"])
    changed = CHANGED_NAME, B, DINO
    assert rows[PROXY]["voc20"][0].value == 50 and bold(rows[PROXY]["voc20"][0])
    assert rows[changed]["voc20"][0].value == 90 and not bold(rows[changed]["voc20"][0])
    assert rows[changed]["voc20"][1].value is None and rows[PROXY]["voc20"][1].value == 80.3
    assert rows[PROXY]["ade20k"][0].value is None and rows[changed]["ade20k"][0].value == 60
    assert rows[PROXY]["average of 1"][0].value == 50  # over datasets with a standard run
    assert bold(rows[PROXY]["average of 1"][0]) and not bold(rows[changed]["average of 1"][0])
    assert list(rows).index(changed) == list(rows).index(PROXY) + 1
    assert [row[0].value for row in book["runs"].iter_rows(min_row=2)] == ["ProxyCLIP", CHANGED_NAME, CHANGED_NAME]
    assert [cell.value for cell in book["voc20"][1]][3::2] == [
        f"{name} {B} {DINO}" for name in (PROXY[0], CHANGED_NAME)
    ]
    assert bold(book["voc20"]["D3"]) and not bold(book["voc20"]["F3"])


def test_a_table_of_changed_runs_alone_has_no_best_and_no_average(tmp_path):
    rows = table(rendered(tmp_path, run(changed={"limit": 5}))["benchmark"])
    cells = rows["ProxyCLIP (first 5 images)", B, DINO]
    assert cells["voc20"][0].value == 50 and not bold(cells["voc20"][0])
    assert cells["average of 8"][0].value is None


def test_runs_that_do_not_say_what_they_changed_are_marked(tmp_path):
    old = without(run(iou=99.0), "changed")
    rows = table(rendered(tmp_path, run(iou=50.0), old, old | {"protocol": {"limit": 5}})["benchmark"])
    assert rows[PROXY]["voc20"][0].value == 50 and bold(rows[PROXY]["voc20"][0])
    for name in ("ProxyCLIP (protocol not recorded)", "ProxyCLIP (first 5 images, protocol not recorded)"):
        assert rows[name, B, DINO]["voc20"][0].value == 99 and not bold(rows[name, B, DINO]["voc20"][0])


def test_the_newest_run_counts(tmp_path):
    book = rendered(tmp_path, run(iou=40.0), run(iou=50.0), run(iou=None, failed="stopped"))
    assert table(book["benchmark"])[PROXY]["voc20"][0].value == 50
    assert [row[5].value for row in book["runs"].iter_rows(min_row=2)] == [40, 50, None]


def test_missing_datasets_and_failed_runs_say_so(tmp_path):
    names = {"model": "ProxyCLIP", "clip": B, "vfm": DINO}
    lines = {"dataset": "ade20k", "missing": "unpack it"}, {"dataset": "voc20", "failed": "stopped"}
    book = rendered(tmp_path, *(names | line for line in lines))
    cells = table(book["benchmark"])[PROXY]
    assert cells["ade20k"][0].value == "missing" and cells["voc20"][0].value == "failed"
    notes = [row[15].value for row in book["runs"].iter_rows(min_row=2)]
    assert notes == ["missing: unpack it", "failed: stopped"]


def test_runs_sheet_has_the_published_scripts_columns_first(tmp_path):
    sheet = rendered(tmp_path, run(skipped={"a": "broken"}))["runs"]
    values = dict(zip((cell.value for cell in sheet[1]), (cell.value for cell in sheet[2]), strict=True))
    assert list(values)[:7] == ["Model", "CLIP", "VFM", "Dataset", "aAcc", "mIoU", "mAcc"]
    assert (values["published mIoU"], values["images/s"], values["crop"]) == (80.3, 2.5, 336)
    assert (values["note"], values["skipped"], values["started"]) == ("left out: a", 1, "2026-01-01 10:00:00")
    assert sheet["F2"].number_format == "0.00" and sheet.freeze_panes == "E2" and sheet.auto_filter.ref


def test_sheet_of_a_dataset(tmp_path):
    sheet = rendered(tmp_path, run(iou=50.0), run(iou=40.0, clip=L))["voc20"]
    assert [cell.value for cell in sheet[3]] == [0, "cat", 50, 25, 25, 20, 20]
    assert [cell.value for cell in sheet[5]][:4] == [2, "cow", 0, None]
    assert bold(sheet["D3"]) and not bold(sheet["F3"])


def test_runs_of_different_classes_share_a_sheet(tmp_path):
    other = run(clip=L, per_class={"dog": {"IoU": 9.0, "Acc": 8.0, "labelled": 1, "predicted": 1}, "hen": {"IoU": 7.0}})
    sheet = rendered(tmp_path, run(), other)["voc20"]
    columns = list(zip(*([cell.value for cell in row] for row in sheet.iter_rows(min_row=3, max_row=6)), strict=True))
    assert columns[1] == ("cat", "dog", "cow", "hen") and columns[3] == (25, 30, None, None)
    assert columns[5] == (None, 9, None, 7)


def test_images_that_were_left_out_leave_a_mark(tmp_path):
    """Fewer images are another benchmark: no best, and the average says so, too."""
    rows = table(rendered(tmp_path, run(iou=60.0, skipped={"a": "broken"}), run(iou=50.0, clip=L))["benchmark"])
    for column in ("voc20", "average of 1"):
        marked, whole = rows[PROXY][column][0], rows["ProxyCLIP", L, DINO][column][0]
        assert (marked.value, marked.number_format, bold(marked)) == (60, '0.00" †"', False)
        assert (whole.value, whole.number_format, bold(whole)) == (50, "0.00", True)


def test_the_average_is_over_the_papers_datasets(tmp_path):
    """Those that papers do not average over would leave it empty wherever they were not run."""
    book = rendered(tmp_path, run(iou=77.0), run("ade847", 9.0))
    average, published = table(book["benchmark"])[PROXY]["average of 1"]
    assert (average.value, published.value) == (77, 80.3)


def test_zero_shot_sheet_has_ours_and_published(tmp_path):
    lines = [run(zero_shot={"zegclip": ZERO_SHOT | {"hIoU": value}}) for value in (1.0, 2.0)]
    lines.append(run(clip=L, changed={"limit": 5}, zero_shot={"zegclip": ZERO_SHOT}))
    sheet = rendered(tmp_path, *lines)["zero-shot"]
    rows = [[cell.value for cell in row] for row in sheet.iter_rows(min_row=2)]
    assert rows[0][:11] == ["voc20", "ProxyCLIP", B, DINO, "zegclip", "–", 90, 80, 60, 2, "ours"]
    assert rows[1][1:10] == ["ProxyCLIP (first 5 images)", L, DINO, "zegclip", "–", 90, 80, 60, 68.57]
    assert rows[2][:11] == ["voc20", "ZegCLIP", B, "–", "zegclip", "inductive", 94.6, 91.9, 77.8, 84.3, "published"]
    assert rows[2][11].startswith("ZiqinZhou66/ZegCLIP") and sheet["G4"].font.italic
    computed = next(row for row in sheet.iter_rows(min_row=2) if row[1].value == "Cascade-CLIP")
    assert (computed[9].value, computed[9].number_format) == (87.5, '0.0" °"') and "S ± 1.0" in computed[12].value


def test_an_empty_table_is_a_valid_workbook(tmp_path):
    assert rendered(tmp_path).sheetnames == ["benchmark", "runs", "published"]
    assert rendered(tmp_path, published={}).sheetnames == ["benchmark", "runs"]


def test_a_workbook_that_cannot_be_replaced_is_left_as_it_is(tmp_path):
    (tmp_path / "results.xlsx").mkdir()
    with pytest.raises(InputError, match="not a regular file .*; no scores are lost"):
        workbook.render([run()], tmp_path / "results.xlsx", PUBLISHED)
    assert [path.name for path in tmp_path.iterdir()] == ["results.xlsx"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_full_disk_is_one_sentence(tmp_path):
    """Neither the workbook nor the temporary files of the library that writes it fit, and it does not complain, too."""
    program = f"""if True:
        import resource, sys
        from pathlib import Path
        from proxyclip import runtime
        from proxyclip.reports import workbook
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        runtime.main_guard(workbook.render)([], Path({str(tmp_path / "results.xlsx")!r}), {PUBLISHED!r})
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "results.xlsx (File too large" in done.stderr and "no scores are lost" in done.stderr
    assert not list(tmp_path.iterdir())
