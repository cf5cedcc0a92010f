"""results.jsonl as a workbook: a paper's table, every run with its protocol, and the classes of each dataset."""

import gc
import io
import sys
from pathlib import Path

from openpyxl import Workbook
from openpyxl.utils import get_column_letter

from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.reports.benchmark_sheet import NAMES, benchmark, ordered, rules
from proxyclip.reports.cell_styles import (
    CENTRE,
    GREY,
    ONE_DECIMAL,
    PLAIN,
    TWO_DECIMALS,
    bold_best,
    double_header,
    fit,
    header,
    score,
    sheet_name,
    words,
)
from proxyclip.reports.run_log import latest

SCORES = ("aAcc", "mIoU", "mAcc", "mIoU_present", "fwIoU")
ZERO_SHOT = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")


def render(runs: list[dict], path: Path, published: dict) -> None:
    """Writes the workbook of all runs (lines of results.jsonl) as a whole: a reader meets the old one or the new one.

    published: "mIoU" holds dicts of model, clip, vfm and "mIoU" by dataset; "zero_shot" of model, dataset, setting and
    scores. They are marked as published wherever they stand. Raises InputError if the file cannot be replaced.
    """
    book = Workbook()
    benchmark(book.active, runs, published.get("mIoU", []))
    runs_sheet(book.create_sheet("runs"), runs, published.get("mIoU", []))
    if any(run.get("zero_shot") for run in runs):
        zero_shot(book.create_sheet("zero-shot"), runs, published.get("zero_shot", []))
    by_dataset: dict[str, list[dict]] = {}
    for run in latest(runs).values():
        if run.get("per_class"):
            by_dataset.setdefault(run["dataset"], []).append(run)
    for dataset in ordered(by_dataset):
        per_class(book.create_sheet(sheet_name(dataset, book.sheetnames)), by_dataset[dataset])
    try:
        write_whole(path, lambda file: file.write(saved(book)))
    except OSError as error:
        hint = "; is it open in another program?" if isinstance(error, PermissionError) else ""
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}{hint}); no score is lost, they are all in "
            f"{path.with_suffix('.jsonl')}: once mended, python eval_all.py --render --workdir {path.parent} writes "
            "the workbook"
        ) from None


def saved(book: Workbook) -> bytes:
    """The file's content. openpyxl takes a detour over the folder of temporary files; OSError if that is full."""
    content, problem = io.BytesIO(), None
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # its half-written parts complain when they go
    try:
        try:
            book.save(content)
        except OSError as error:
            problem = error.errno, f"{error.strerror}, for temporary files"
        if problem:  # not above, where the error still holds those parts
            gc.collect()
    finally:
        sys.unraisablehook = hook
    if problem:
        raise OSError(*problem)
    return content.getvalue()


def runs_sheet(sheet, runs: list[dict], published: list[dict]) -> None:
    """One row a run, newest last, with everything a score depends on."""
    papers = {(row["model"], row["clip"], row["vfm"]): row["mIoU"] for row in published}
    protocol = [
        key
        for key in dict.fromkeys(key for run in runs for key in run.get("protocol", {}))
        if key not in ("dataset", "clip", "vfm")
    ]  # in front already
    first = (*NAMES, "Dataset", *SCORES[:3], "published mIoU", *SCORES[3:])
    middle = ("images", "skipped", "seconds", "images/s", "started", "note")
    header(sheet, 1, [*first, *middle, *(key.replace("_", " ") for key in protocol)])
    for number, run in enumerate(runs, start=2):
        names = (run["model"], run.get("clip"), run.get("vfm"))
        paper = papers.get(names, {}).get(run["dataset"])
        seconds, images = run.get("seconds"), run.get("images")
        cells = [
            *(words(name) or "–" for name in names),
            words(run["dataset"]),
            *(run.get(key) for key in SCORES[:3]),
            paper,
        ]
        cells += [run.get(key) for key in SCORES[3:]]
        speed = images / seconds if seconds and images else None
        skipped = len(run["skipped"]) if "skipped" in run else None
        cells += [images, skipped, seconds, speed, run.get("started"), note(run)]
        cells += [words(run.get("protocol", {}).get(key)) for key in protocol]
        for column, value in enumerate(cells, start=1):
            cell = sheet.cell(number, column, value)
            if isinstance(value, (int, float)):
                cell.alignment = CENTRE
            if isinstance(value, float) and column <= len(first) + 4:
                cell.number_format = TWO_DECIMALS
        score(sheet.cell(number, 8), paper, GREY, ONE_DECIMAL)
    sheet.auto_filter.ref = f"A1:{get_column_letter(sheet.max_column)}{max(2, sheet.max_row)}"
    fit(sheet, 1, frozen="E2")


def note(run: dict) -> str | None:
    """What a reader must know about a run before quoting it."""
    parts = [f"{what}: {run[what]}" for what in ("missing", "failed") if run.get(what)]
    if part := part_of_it(run):
        parts.append(part)
    if skipped := run.get("skipped"):
        parts.append(f"left out: {', '.join(list(skipped)[:5])}{', …' if len(skipped) > 5 else ''}")
    return words("; ".join(parts)) or None


def zero_shot(sheet, runs: list[dict], published: list[dict]) -> None:
    """Seen and unseen classes: by dataset, the newest run of each model and split, and what papers print."""
    header(sheet, 1, ["Dataset", *NAMES, "unseen classes of", "setting", *ZERO_SHOT, "source"])
    rows = []
    for run in latest(runs).values():
        for split, scores in (run.get("zero_shot") or {}).items():
            names = [run["dataset"], *(words(run.get(key)) or "–" for key in ("model", "clip", "vfm")), split, "–"]
            rows.append([*names, *(scores.get(key) for key in ZERO_SHOT), part_of_it(run) or "ours"])
    for row in published:
        scores = [row.get(key) for key in ("pAcc", "S", "U", "h")]
        rows.append([row["dataset"], row["model"], "–", "–", "–", row["setting"], *scores, "published"])
    order = ordered({row[0] for row in rows})
    for number, cells in enumerate(sorted(rows, key=lambda row: order.index(row[0])), start=2):
        font, decimals = (GREY, ONE_DECIMAL) if cells[-1] == "published" else (PLAIN, TWO_DECIMALS)
        for column, value in enumerate(cells, start=1):
            cell = sheet.cell(number, column, value)
            cell.font = font
            if 6 < column < len(cells):
                score(cell, value, font, decimals)
    fit(sheet, 1, frozen="C2")


def part_of_it(run: dict) -> str | None:
    """What a score says that is not of a whole dataset."""
    limit = run.get("protocol", {}).get("limit")
    return f"first {limit} images only" if limit else None


def per_class(sheet, runs: list[dict]) -> None:
    """IoU and accuracy of every class, for the newest run of each model; of whole runs the best IoU of a class bold."""
    classes = list(runs[0]["per_class"])
    fullest = max(runs, key=lambda run: run.get("images") or 0)["per_class"]
    labelled = {name: fullest.get(name, {}).get("labelled", 0) for name in classes}
    pixels = sum(labelled.values()) or 1
    titles = [
        " ".join(str(part) for part in (run["model"], run.get("clip"), run.get("vfm"), part_of_it(run)) if part)
        for run in runs
    ]
    double_header(sheet, ["label", "class", "% of pixels"], [words(title) for title in titles], ("IoU", "Acc"))
    for number, name in enumerate(classes, start=3):
        sheet.cell(number, 1, number - 3).alignment = CENTRE
        sheet.cell(number, 2, words(name))
        score(sheet.cell(number, 3), 100 * labelled[name] / pixels)
        for index, run in enumerate(runs):
            figures = run["per_class"].get(name, {})
            score(sheet.cell(number, 4 + 2 * index), figures.get("IoU"))
            score(sheet.cell(number, 5 + 2 * index), figures.get("Acc"))
        if len(runs) > 1:
            bold_best([sheet.cell(number, 4 + 2 * i) for i, run in enumerate(runs) if not part_of_it(run)])
    rules(sheet, 3 + 2 * len(runs), {3 + len(classes)})
    fit(sheet, 2, frozen="D3")
