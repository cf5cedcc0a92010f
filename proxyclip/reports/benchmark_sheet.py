"""The workbook's first sheet: mIoU in the shape of a paper's table, what papers print beside what was measured."""

from proxyclip.reports.cell_styles import (
    BOTH_LINES,
    GREY,
    LEFT_LINE,
    LEFT_OUT,
    ONE_DECIMAL,
    PLAIN,
    TOP_LINE,
    TWO_DECIMALS,
    bold_best,
    double_header,
    fit,
    score,
    words,
)
from proxyclip.reports.run_log import latest

NAMES = ("Model", "CLIP", "VFM")
# As papers order and print them. The eight of every paper make the average; other datasets follow.
PUBLIC = {
    "voc21": "VOC21",
    "context60": "Context60",
    "coco_object": "COCO-Object",
    "voc20": "VOC20",
    "cityscapes": "Cityscapes",
    "context59": "Context59",
    "ade20k": "ADE20K",
    "coco_stuff164k": "COCO-Stuff",
}
MORE_PUBLIC = {"context459": "Context459", "ade847": "ADE847"}
NOTES = (
    "mIoU in percent, averaged as mmsegmentation does; sheet runs has the other average and the protocol. Where a row "
    "was run more than once, its newest whole run stands here.",
    "published (grey): as printed in the papers or their repositories, not measured here. Best of each column in bold.",
    "missing, failed: the dataset was not on disk, or the run stopped; sheet runs says why and what to do.",
    "*: the first images only; counts neither for the average nor for the best.    †: images that could not be used "
    "were left out; sheet runs names them.",
)


def ordered(datasets) -> list[str]:
    """As papers print them, others behind."""
    known = (*PUBLIC, *MORE_PUBLIC)
    return [name for name in known if name in datasets] + sorted(name for name in datasets if name not in known)


def benchmark(sheet, runs: list[dict], published: list[dict]) -> None:
    """mIoU of each model on each dataset beside the published one; best of a column bold, in ours and in published."""
    sheet.title = "benchmark"
    ours: dict[tuple, dict[str, dict]] = {}
    for (*names, dataset), run in latest(runs).items():
        ours.setdefault(tuple(names), {})[dataset] = run
    papers = {(row["model"], row["clip"], row["vfm"]): row for row in published}
    datasets = ordered({*PUBLIC, *(name for by_dataset in ours.values() for name in by_dataset)})
    measured = {name for row in ours.values() for name, run in row.items() if isinstance(whole(run), float)}
    averaged = [name for name in PUBLIC if name in measured] or list(PUBLIC)

    titles = [*(PUBLIC.get(name) or MORE_PUBLIC.get(name, name) for name in datasets), f"average of {len(averaged)}"]
    double_header(sheet, list(NAMES), titles, ("ours", "published"))

    rows = [(names, by_dataset, papers.get(names, {})) for names, by_dataset in ours.items()]
    rows += [(names, {}, row) for names, row in papers.items() if names not in ours]
    for number, (names, own, paper) in enumerate(rows, start=3):
        model, *halves = names
        if paper.get("trained_on"):
            model += " ‡"
        for column, name in enumerate((model, *halves), start=1):
            sheet.cell(number, column, words(name) or "–").font = PLAIN if own else GREY
        ious, theirs = {name: whole(run) for name, run in own.items()}, paper.get("mIoU", {})
        for index, name in enumerate(datasets):
            incomplete = own.get(name, {}).get("skipped")
            score(sheet.cell(number, 4 + 2 * index), ious.get(name), PLAIN, LEFT_OUT if incomplete else TWO_DECIMALS)
            score(sheet.cell(number, 5 + 2 * index), theirs.get(name), GREY, ONE_DECIMAL)
        score(sheet.cell(number, 4 + 2 * len(datasets)), average(ious, averaged))
        score(sheet.cell(number, 5 + 2 * len(datasets)), average(theirs, averaged), GREY, ONE_DECIMAL)
    last = 5 + 2 * len(datasets)
    for column in range(4, last + 1):
        bold_best([sheet.cell(row, column) for row in range(3, len(rows) + 3)])
    rules(sheet, last, {3 + len(ours), 3 + len(rows)})
    over = ", ".join(PUBLIC[name] for name in averaged)
    trained = ", ".join(sorted({row["trained_on"] for row in published if row.get("trained_on")})) or "none"
    more = f"average: over {over}, where a row has all of them.", f"‡: trained for segmentation, on {trained}."
    for row, note in enumerate((*NOTES, *more), start=len(rows) + 4):
        sheet.cell(row, 1, note).font = GREY
    fit(sheet, 2, frozen="D3", skip_from=len(rows) + 3)


def rules(sheet, last_column: int, below: set[int]) -> None:
    """A line left of every dataset, and one above each row of `below`: under ours, and under the table."""
    for row in range(1, max(below) + 1):
        for column in range(1, last_column + 1):
            left = column > 3 and column % 2 == 0 and row < max(below)
            if left or row in below:
                border = BOTH_LINES if left and row in below else LEFT_LINE if left else TOP_LINE
                sheet.cell(row, column).border = border


def whole(run: dict) -> float | str:
    """The mIoU of a whole dataset; as a text, which no average and no best takes, where it is none."""
    if run.get("mIoU") is None:
        return "missing" if run.get("missing") else "failed"
    return f"{run['mIoU']:.2f} *" if run.get("protocol", {}).get("limit") else float(run["mIoU"])


def average(scores: dict, names: list[str]) -> float | None:
    """The mean over those datasets, if all of them are there."""
    values = [scores.get(name) for name in names]
    return sum(values) / len(values) if all(isinstance(value, float) for value in values) else None
