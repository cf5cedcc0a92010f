"""Runs for the tests of tables, and the workbook that is made from them."""

from openpyxl import load_workbook

from configs.published import PUBLISHED
from proxyclip.reports import workbook
from proxyclip.reports.run_log import append_run, read_log
from proxyclip.reports.workbook import TITLES

B, L = "ViT-B-16:openai", "ViT-L-14:openai"
CHANGED = {"split": "tune", "beta": 1.6, "short_side": 96}
CHANGED_NAME = "ProxyCLIP (beta 1.6, short_side 96, split tune)"


def run(dataset="voc20", iou=50.0, clip=B, model="ProxyCLIP", vfm="dino-vitb8", **more) -> dict:
    classes = {"cat": (iou or 0) / 2, "dog": 30.0, "cow": None}
    figures = {n: {"IoU": v, "Acc": v, "labelled": 0 if v is None else 300, "predicted": 7} for n, v in classes.items()}
    return {
        "dataset": dataset, "model": model, "clip": clip, "vfm": vfm, "changed": {}, "images": 10, "seconds": 4.0,
        "aAcc": 80.0, "mIoU": iou, "mAcc": 60.0, "mIoU_present": (iou or 0) + 1, "fwIoU": 55.0, "per_class": figures,
        "started": "2026-01-01 10:00:00", "skipped": {}, "zero_shot": {}, "protocol": {"crop": 336, "threshold": None},
    } | more  # fmt: skip


def without(line: dict, *fields: str) -> dict:
    return {key: value for key, value in line.items() if key not in fields}


def rendered(tmp_path, *lines, published=PUBLISHED):
    """The workbook of those lines, read back."""
    for line in lines:
        append_run(tmp_path / "results.jsonl", line)
    workbook.render(read_log(tmp_path / "results.jsonl")[0], tmp_path / "results.xlsx", published)
    return load_workbook(tmp_path / "results.xlsx")


def table(sheet) -> dict:
    """(model, clip, vfm) -> dataset -> (our cell, published cell) of the benchmark sheet."""
    named = {title: name for name, title in TITLES.items()}
    columns = {named.get(cell.value, cell.value): cell.column for cell in sheet[1] if cell.value}
    rows = {}
    for row in sheet.iter_rows(min_row=3):
        if row[1].value:
            cells = {name: (row[c - 1], row[c]) for name, c in columns.items() if c > 3}
            rows[tuple(cell.value for cell in row[:3])] = cells
    return rows
