"""results.jsonl as a workbook: a paper's table, every run with its protocol, and the classes of each dataset."""

import zipfile
from pathlib import Path

from openpyxl import Workbook
from openpyxl.utils import get_column_letter

from proxyclip.cells import (
    BOLD,
    CENTRE,
    GREY,
    LEFT_LINE,
    ONE_DECIMAL,
    PLAIN,
    TWO_DECIMALS,
    embolden,
    fit,
    header,
    plain,
    score,
    sheet_name,
)
from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.results import latest

# The order in which papers print them; other datasets follow, and only public ones count for the average.
PUBLIC = ("voc21", "context60", "coco_object", "voc20", "cityscapes", "context59", "ade20k", "coco_stuff164k")
MORE_PUBLIC = ("context459", "ade847")
NAMES = ("Model", "CLIP", "VFM")
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
        write_whole(path, lambda file: book.save(file))
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or error}; is it open in another program?); "
            f"no score is lost, they are all in {path.with_suffix('.jsonl')}: once mended, python eval_all.py --render "
            f"--workdir {path.parent} writes the workbook"
        ) from None


def ordered(datasets) -> list[str]:
    """As papers print them, others behind."""
    known = (*PUBLIC, *MORE_PUBLIC)
    return [name for name in known if name in datasets] + sorted(name for name in datasets if name not in known)


def benchmark(sheet, runs: list[dict], published: list[dict]) -> None:
    """mIoU of each model on each dataset beside the published one; best of a column bold, in ours and in published."""
    sheet.title = "benchmark"
    ours: dict[tuple, dict[str, dict]] = {}
    for (model, clip, vfm, dataset), run in latest(runs).items():
        ours.setdefault((model, clip, vfm), {})[dataset] = run
    papers = {(row["model"], row["clip"], row["vfm"]): row["mIoU"] for row in published}
    datasets = ordered({*PUBLIC, *(name for by_dataset in ours.values() for name in by_dataset)})
    measured = {name for row in ours.values() for name, run in row.items() if isinstance(whole(run), float)}
    averaged = [name for name in (*PUBLIC, *MORE_PUBLIC) if name in measured]

    titles = [*datasets, f"average of {len(averaged)}"]
    header(sheet, 1, [*NAMES, *(title for name in titles for title in (name, ""))])
    header(sheet, 2, [*("" for _ in NAMES), *("ours", "published") * len(titles)])
    for column in range(len(NAMES)):
        sheet.merge_cells(start_row=1, end_row=2, start_column=column + 1, end_column=column + 1)
    for index in range(len(titles)):
        sheet.merge_cells(start_row=1, end_row=1, start_column=4 + 2 * index, end_column=5 + 2 * index)

    rows = [(names, {d: whole(run) for d, run in by.items()}, papers.get(names, {})) for names, by in ours.items()]
    rows += [(names, {}, scores) for names, scores in papers.items() if names not in ours]
    for number, (names, own, theirs) in enumerate(rows, start=3):
        for column, name in enumerate(names, start=1):
            sheet.cell(number, column, name or "–").font = PLAIN if own else GREY
        for index, name in enumerate(datasets):
            score(sheet.cell(number, 4 + 2 * index), own.get(name))
            score(sheet.cell(number, 5 + 2 * index), theirs.get(name), GREY, ONE_DECIMAL)
        score(sheet.cell(number, 4 + 2 * len(datasets)), average(own, averaged))
        score(sheet.cell(number, 5 + 2 * len(datasets)), average(theirs, averaged), GREY, ONE_DECIMAL)
    for column in range(4, 6 + 2 * len(datasets)):
        embolden(sheet, column, 3)
        if column % 2 == 0:
            for row in range(1, len(rows) + 3):
                sheet.cell(row, column).border = LEFT_LINE
    notes = (
        "mIoU in percent, averaged as mmsegmentation does (see sheet runs for the other average and the protocol).",
        "published: as printed in the papers, not measured here. Best of each column in bold.",
        f"average: over the public datasets measured ({', '.join(averaged) or 'none yet'}), where all of them are.",
        "missing, failed: the dataset was not on disk, or the run stopped; sheet runs says why and what to do.",
        "*: the first images only; counts neither for the average nor for the best.",
    )
    for row, note in enumerate(notes, start=len(rows) + 4):
        sheet.cell(row, 1, note).font = GREY
    fit(sheet, 2, frozen="D3", skip_from=len(rows) + 4)


def whole(run: dict) -> float | str:
    """The mIoU of a whole dataset; as a text, which no average and no best takes, where it is none."""
    if run.get("mIoU") is None:
        return "missing" if run.get("missing") else "failed"
    return f"{run['mIoU']:.2f} *" if run.get("protocol", {}).get("limit") else run["mIoU"]


def average(scores: dict, names: list[str]) -> float | None:
    """The mean over those datasets, if all of them are there."""
    values = [scores.get(name) for name in names]
    return sum(values) / len(values) if values and all(isinstance(value, float) for value in values) else None


def runs_sheet(sheet, runs: list[dict], published: list[dict]) -> None:
    """One row a run, newest last, with everything a score depends on."""
    papers = {(row["model"], row["clip"], row["vfm"]): row["mIoU"] for row in published}
    protocol = list(dict.fromkeys(key for run in runs for key in run.get("protocol", {})))
    first = (*NAMES, "Dataset", *SCORES[:3], "published mIoU", *SCORES[3:])
    middle = ("images", "skipped", "seconds", "images/s", "started", "note")
    header(sheet, 1, [*first, *middle, *(key.replace("_", " ") for key in protocol)])
    for number, run in enumerate(runs, start=2):
        names = (run["model"], run.get("clip"), run.get("vfm"))
        paper = papers.get(names, {}).get(run["dataset"])
        seconds, images = run.get("seconds"), run.get("images")
        cells = [*(name or "–" for name in names), run["dataset"], *(run.get(key) for key in SCORES[:3]), paper]
        cells += [run.get(key) for key in SCORES[3:]]
        speed = images / seconds if seconds and images else None
        cells += [images, len(run.get("skipped", {})), seconds, speed, run.get("started"), note(run)]
        cells += [plain(run.get("protocol", {}).get(key)) for key in protocol]
        for column, value in enumerate(cells, start=1):
            cell = sheet.cell(number, column, value)
            if isinstance(value, float) and column <= len(first) + 4:
                cell.number_format = TWO_DECIMALS
        sheet.cell(number, 8).font = GREY
    sheet.auto_filter.ref = f"A1:{get_column_letter(sheet.max_column)}{max(2, sheet.max_row)}"
    fit(sheet, 1, frozen="E2")


def note(run: dict) -> str | None:
    """What a reader must know about a run before quoting it."""
    parts = [f"{what}: {run[what]}" for what in ("missing", "failed") if run.get(what)]
    if limit := run.get("protocol", {}).get("limit"):
        parts.append(f"first {limit} images only")
    if skipped := run.get("skipped"):
        parts.append(f"left out: {', '.join(list(skipped)[:5])}{', …' if len(skipped) > 5 else ''}")
    return "; ".join(parts) or None


def zero_shot(sheet, runs: list[dict], published: list[dict]) -> None:
    """Seen and unseen classes of each run that has such a split, and the published scores."""
    header(sheet, 1, ["Model", "Dataset", "Setting", *ZERO_SHOT, "source"])
    rows = []
    for run in runs:
        for setting, scores in (run.get("zero_shot") or {}).items():
            rows.append([run["model"], run["dataset"], setting, *(scores[key] for key in ZERO_SHOT), "ours"])
    for row in published:
        scores = [row.get(key) for key in ("pAcc", "S", "U", "h")]
        rows.append([row["model"], row["dataset"], row["setting"], *scores, "published"])
    for number, cells in enumerate(rows, start=2):
        for column, value in enumerate(cells, start=1):
            cell = sheet.cell(number, column, value)
            cell.font = PLAIN if cells[-1] == "ours" else GREY
            if isinstance(value, float):
                cell.number_format = TWO_DECIMALS if cells[-1] == "ours" else ONE_DECIMAL
    fit(sheet, 1, frozen="D2")


def per_class(sheet, runs: list[dict]) -> None:
    """IoU and accuracy of every class, for the newest run of each model; the best IoU of a class bold."""
    classes = list(runs[0]["per_class"])
    labelled = {name: runs[0]["per_class"][name]["labelled"] for name in classes}
    pixels = sum(labelled.values()) or 1
    titles = [" ".join(part for part in (run["model"], run.get("clip"), run.get("vfm")) if part) for run in runs]
    header(sheet, 1, ["label", "class", "% of pixels", *(text for title in titles for text in (title, ""))])
    header(sheet, 2, ["", "", "", *("IoU", "Acc") * len(runs)])
    for index in range(len(runs)):
        sheet.merge_cells(start_row=1, end_row=1, start_column=4 + 2 * index, end_column=5 + 2 * index)
    for number, name in enumerate(classes, start=3):
        sheet.cell(number, 1, number - 3).alignment = CENTRE
        sheet.cell(number, 2, name)
        score(sheet.cell(number, 3), 100 * labelled[name] / pixels)
        for index, run in enumerate(runs):
            figures = run["per_class"].get(name, {})
            score(sheet.cell(number, 4 + 2 * index), figures.get("IoU"))
            score(sheet.cell(number, 5 + 2 * index), figures.get("Acc"))
        if len(runs) > 1:
            cells = [sheet.cell(number, 4 + 2 * index) for index in range(len(runs))]
            best = max((cell.value for cell in cells if isinstance(cell.value, float)), default=None)
            for cell in cells:
                cell.font = BOLD if best is not None and cell.value == best else PLAIN
    fit(sheet, 2, frozen="D3")
