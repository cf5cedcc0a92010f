"""results.jsonl and the workbook that is made from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from openpyxl import load_workbook

from configs.published import PUBLISHED, published_miou
from proxyclip.errors import InputError
from proxyclip.reports import benchmark_sheet as paper_table
from proxyclip.reports import run_log as results
from proxyclip.reports import workbook

HERE = Path(__file__).resolve().parents[1]
B, L = "ViT-B-16:openai", "ViT-L-14:openai"


def run(dataset="voc20", iou=50.0, clip=B, model="ProxyCLIP", vfm="dino-vitb8", limit=None, **more) -> dict:
    classes = {"cat": 2 * iou - 30, "dog": 30.0, "cow": None}
    figures = {n: {"IoU": v, "Acc": v, "labelled": 0 if v is None else 300, "predicted": 7} for n, v in classes.items()}
    return {
        "dataset": dataset, "model": model, "clip": clip, "vfm": vfm, "images": 10, "seconds": 4.0,
        "aAcc": 80.0, "mIoU": iou, "mAcc": 60.0, "mIoU_present": iou + 1, "fwIoU": 55.0, "per_class": figures,
        "started": "2026-01-01 10:00:00", "skipped": {}, "protocol": {"crop": 336, "threshold": None, "limit": limit},
    } | more  # fmt: skip


def rendered(tmp_path, *runs):
    for line in runs:
        results.append(tmp_path / "results.jsonl", line)
    workbook.render(results.read(tmp_path / "results.jsonl")[0], tmp_path / "results.xlsx", PUBLISHED)
    return load_workbook(tmp_path / "results.xlsx")


def table(sheet, header_rows=2):
    """(model, clip, vfm) -> dataset -> (our cell, published cell) of the benchmark sheet."""
    named = {title: name for name, title in paper_table.PUBLIC.items()}
    columns = {named.get(cell.value, cell.value): cell.column for cell in sheet[1] if cell.value}
    rows = {}
    for row in sheet.iter_rows(min_row=header_rows + 1):
        if row[1].value:
            cells = {name: (row[c - 1], row[c]) for name, c in columns.items() if c > 3}
            rows[tuple(cell.value for cell in row[:3])] = cells
    return rows


def test_benchmark_sheet_is_a_papers_table(tmp_path):
    best = {"voc20": run(iou=77.25), "ade20k": run("ade20k", 20.5)}
    others = run(iou=70, clip=L), run("ade20k", 24, clip=L), run("scenes", 66, clip="mini", vfm="dino:mini")
    sheet = rendered(tmp_path, *best.values(), *others)["benchmark"]
    rows = table(sheet)
    ours, paper = rows["ProxyCLIP", B, "dino-vitb8"]["voc20"]
    assert (ours.value, ours.number_format, ours.font.bold) == (77.25, "0.00", True)
    assert (paper.value, paper.font.italic) == (80.3, True)
    assert rows["ProxyCLIP", L, "dino-vitb8"]["voc20"][0].font.bold is False
    assert rows["ProxyCLIP", L, "dino-vitb8"]["ade20k"][0].font.bold is True
    average, of_paper = rows["ProxyCLIP", B, "dino-vitb8"]["average of 2"]
    assert average.value == pytest.approx((77.25 + 20.5) / 2) and of_paper.value == pytest.approx((80.3 + 20.2) / 2)
    assert rows["ProxyCLIP", "mini", "dino:mini"]["average of 2"][0].value is None
    assert [cell.value for cell in sheet[1]][:3] == ["Model", "CLIP", "VFM"]
    assert [cell.value for cell in sheet[2]][3:5] == ["ours", "published"]
    assert sheet.freeze_panes == "D3"
    assert rows["SCLIP", B, "–"]["voc20"][1].value == 80.4 and rows["SCLIP", B, "–"]["voc20"][0].value is None


def test_published_numbers_never_stand_among_ours(tmp_path):
    sheet = rendered(tmp_path, run())["benchmark"]
    for names, cells in table(sheet).items():
        for name, (ours, _) in cells.items():
            if ours.value is not None:
                assert names == ("ProxyCLIP", B, "dino-vitb8") and name in ("voc20", "average of 1")


def test_the_newest_whole_run_counts(tmp_path):
    book = rendered(tmp_path, run(iou=40.0), run(iou=50.0), run(iou=99.0, limit=5))
    assert table(book["benchmark"])["ProxyCLIP", B, "dino-vitb8"]["voc20"][0].value == 50
    assert [row[5].value for row in book["runs"].iter_rows(min_row=2)] == [40, 50, 99]


def test_runs_of_some_images_and_missing_datasets_are_marked(tmp_path):
    missing = {"dataset": "ade20k", "model": "ProxyCLIP", "clip": B, "vfm": "dino-vitb8", "missing": "unpack it"}
    book = rendered(tmp_path, run(limit=5), missing)
    cells = table(book["benchmark"])["ProxyCLIP", B, "dino-vitb8"]
    assert cells["voc20"][0].value == "50.00 *" and cells["ade20k"][0].value == "missing"
    notes = [row[15].value for row in book["runs"].iter_rows(min_row=2)]
    assert notes == ["first 5 images only", "missing: unpack it"]


def test_runs_sheet_has_the_published_scripts_columns_first(tmp_path):
    sheet = rendered(tmp_path, run(skipped={"a": "broken"}))["runs"]
    values = dict(zip((cell.value for cell in sheet[1]), (cell.value for cell in sheet[2]), strict=True))
    assert list(values)[:7] == ["Model", "CLIP", "VFM", "Dataset", "aAcc", "mIoU", "mAcc"]
    assert (values["published mIoU"], values["images/s"], values["crop"]) == (80.3, 2.5, 336)
    assert values["note"] == "left out: a" and values["skipped"] == 1
    assert sheet["F2"].number_format == "0.00" and sheet.freeze_panes == "E2" and sheet.auto_filter.ref


def test_sheet_of_a_dataset(tmp_path):
    sheet = rendered(tmp_path, run(iou=50.0), run(iou=40.0, clip=L))["voc20"]
    assert [cell.value for cell in sheet[3]] == [0, "cat", 50, 70, 70, 50, 50]
    assert [cell.value for cell in sheet[5]][:4] == [2, "cow", 0, None]
    assert sheet["D3"].font.bold and not sheet["F3"].font.bold


def test_a_part_of_a_dataset_is_marked_and_never_the_best_of_a_class(tmp_path):
    sheet = rendered(tmp_path, run(iou=50.0), run(iou=60.0, clip=L, limit=5))["voc20"]
    assert sheet["F1"].value == f"ProxyCLIP {L} dino-vitb8 first 5 images only"
    assert sheet["D3"].font.bold and not sheet["F3"].font.bold


def test_images_that_were_left_out_leave_a_mark(tmp_path):
    sheet = rendered(tmp_path, run(skipped={"a": "broken"}))["benchmark"]
    ours = table(sheet)["ProxyCLIP", B, "dino-vitb8"]["voc20"][0]
    assert (ours.value, ours.number_format) == (50, '0.00" †"')


def test_the_average_is_over_the_papers_datasets(tmp_path):
    """Those that papers do not average over would leave it empty wherever they were not run."""
    book = rendered(tmp_path, run(iou=77.0), run("ade847", 9.0))
    average, published = table(book["benchmark"])["ProxyCLIP", B, "dino-vitb8"]["average of 1"]
    assert (average.value, published.value) == (77, 80.3)


def test_trained_models_are_marked(tmp_path):
    rows = table(rendered(tmp_path, run())["benchmark"])
    assert rows["CAT-Seg ‡", B, "–"]["voc20"][1].value == 94.6 and ("SCLIP", B, "–") in rows


def test_characters_that_spreadsheets_forbid(tmp_path):
    line = {"dataset": "ade20k", "model": "ProxyCLIP", "clip": B, "vfm": None, "failed": "\x1b[31mno space\x1b[0m"}
    assert rendered(tmp_path, line)["runs"]["P2"].value == "failed: [31mno space[0m"


def test_zero_shot_sheet_has_ours_and_published(tmp_path):
    scores = {"pAcc": 90.0, "mIoU(S)": 80.0, "mIoU(U)": 60.0, "hIoU": 68.57}
    sheet = rendered(tmp_path, run(zero_shot={"zegclip": scores}))["zero-shot"]
    rows = [[cell.value for cell in row] for row in sheet.iter_rows(min_row=2)]
    assert rows[0] == ["voc20", "ProxyCLIP", B, "dino-vitb8", "zegclip", "–", 90, 80, 60, 68.57, "ours"]
    assert rows[1] == ["voc20", "ZegCLIP", "–", "–", "–", "inductive", 94.6, 91.9, 77.8, 84.3, "published"]


def test_zero_shot_sheet_tells_runs_apart(tmp_path):
    """Two models, the newest run of each, and one of some images that says so."""
    scores = {"pAcc": 90.0, "mIoU(S)": 80.0, "mIoU(U)": 60.0, "hIoU": 68.57}
    lines = [run(zero_shot={"zegclip": scores | {"hIoU": value}}) for value in (1.0, 2.0)]
    lines.append(run(clip=L, limit=5, zero_shot={"zegclip": scores}))
    rows = [[cell.value for cell in row] for row in rendered(tmp_path, *lines)["zero-shot"].iter_rows(min_row=2)]
    ours = [(row[2], row[9], row[10]) for row in rows if row[10] != "published"]
    assert ours == [(B, 2, "ours"), (L, 68.57, "first 5 images only")]


def test_an_empty_table_is_a_valid_workbook(tmp_path):
    assert rendered(tmp_path).sheetnames == ["benchmark", "runs"]


def test_names_that_spreadsheets_forbid(tmp_path):
    names = rendered(tmp_path, run("a/b:c" * 10), run("a/b?c" * 10, clip=L)).sheetnames
    assert len(set(names)) == 4 and all(len(name) <= 31 for name in names)


def test_lines_that_are_no_results_are_named(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, run())
    with open(path, "ab") as file:
        file.write(b'{"dataset": "voc\n[1, 2]\n{"dataset": 3, "model": "a"}\n')
        file.write(b'{"dataset": "voc", "model": "a", "mIoU": "high"}\n\xff\n')
    results.append(path, run(iou=60.0))
    runs, complaints = results.read(path)
    assert [line["mIoU"] for line in runs] == [50, 60]
    assert [complaint.split(" is ")[0] for complaint in complaints] == [f"{path}, line {n}," for n in range(2, 7)]


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(run()))
    results.append(path, run(iou=60.0))
    assert [line["mIoU"] for line in results.read(path)[0]] == [50, 60]
    assert not path.with_name("results.jsonl.torn").exists()


def test_nan_becomes_null(tmp_path):
    results.append(tmp_path / "results.jsonl", run(mAcc=float("nan")))
    assert results.read(tmp_path / "results.jsonl")[0][0]["mAcc"] is None


def test_a_workbook_that_cannot_be_replaced_is_left_as_it_is(tmp_path):
    (tmp_path / "results.xlsx").mkdir()
    with pytest.raises(InputError, match=r"Is a directory\); no score is lost"):
        workbook.render([run()], tmp_path / "results.xlsx", PUBLISHED)
    assert [path.name for path in tmp_path.iterdir()] == ["results.xlsx"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_full_disk_is_one_sentence(tmp_path):
    """Neither the workbook nor the temporary files of the library that writes it fit, and it does not complain, too."""
    program = f"""if True:
        import resource, sys
        from pathlib import Path
        from proxyclip import errors
        from proxyclip.reports import workbook
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        errors.main_guard(workbook.render)([], Path({str(tmp_path / "results.xlsx")!r}), {PUBLISHED!r})
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "cannot be written (File too large" in done.stderr and "no score is lost" in done.stderr
    assert not list(tmp_path.iterdir())


def test_published_scores_are_found_by_models_and_dataset():
    assert published_miou("ProxyCLIP", B, "dino-vitb8", "coco_object") == 37.5
    assert published_miou("ProxyCLIP", L, "dino-vitb8", "coco_object") is None
    assert published_miou("ProxyCLIP", B, "dino-vitb8", "scenes") is None
