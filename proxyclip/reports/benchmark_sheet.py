"""The first sheet of the workbook: mIoU in the format of papers, published and measured scores in adjacent rows."""

import pandas as pd

from proxyclip.reports.cell_styles import (
    BOTH_LINES,
    GREY,
    LEFT_LINE,
    ONE_DECIMAL,
    PLAIN,
    TOP_LINE,
    bold_best,
    double_header,
    fit,
    score,
    write,
)
from proxyclip.reports.frames import NAMES, filled, newest
from proxyclip.reports.published import MARKS, SHEET_NOTE, published_frame

# As papers order and print them. These eight make the average; other datasets follow.
AVERAGED = {
    "voc21": "VOC21",
    "context60": "Context60",
    "coco_object": "COCO-Object",
    "voc20": "VOC20",
    "cityscapes": "Cityscapes",
    "context59": "Context59",
    "ade20k": "ADE20K",
    "coco_stuff164k": "COCO-Stuff",
}
TITLES = AVERAGED | {"context459": "Context459", "ade847": "ADE847", "voc20b": "VOC20b"}
LEFT_OUT, TRAINED = "†", "‡"
NOTES = (
    "ours: mIoU in percent, averaged as mmsegmentation does; sheet runs has the other average and the whole protocol. "
    "The newest run counts.",
    "Brackets after a model: what a run changed from the benchmark's standard protocol. Such a run does not compare "
    "with other rows: it is never in bold and is not compared with a published score.",
    "published protocol: a run under the protocol of the method's own published runs. It compares with the published "
    "score in its row only.",
    "protocol not recorded: a run of an earlier version, which did not record what was changed.",
    f"published (grey): as printed, not measured here; {SHEET_NOTE}.",
    "Bold: the best of a column among whole runs of the standard protocol; in grey, among published scores of it.",
    "missing, failed: the dataset was not on disk, or the run stopped; sheet runs says why and what to do.",
    f"{LEFT_OUT}: images that could not be used were left out; sheet runs names them.",
)


def ordered(datasets) -> list[str]:
    """As papers print them, others behind."""
    return [name for name in TITLES if name in datasets] + sorted(name for name in datasets if name not in TITLES)


def benchmark_sheet(sheet, runs: pd.DataFrame, published: dict) -> None:
    """Measured and published mIoU of each row on each dataset. runs: of `runs_frame`."""
    chosen = newest(runs)
    measured = set(chosen.loc[chosen["standard"] & chosen["mIoU"].notna(), "dataset"])
    datasets = ordered({*AVERAGED, *chosen["dataset"]})
    averaged = [name for name in AVERAGED if name in measured] or list(AVERAGED)
    titles = [*(TITLES.get(name, name) for name in datasets), f"average of {len(averaged)}"]
    double_header(sheet, ["Model", "CLIP", "VFM"], titles, ("ours", "published"))

    papers = published_frame(published)
    rows = chosen.drop_duplicates(NAMES)
    own, in_print = (pd.MultiIndex.from_frame(rows[[name, *NAMES[1:]]]) for name in ("row", "published_model"))
    others = papers[~papers.index.isin(in_print)]
    others.index = others.index.map(lambda names: (f"{names[0]}, as printed", *names[1:]) if names in own else names)
    papers = pd.concat([papers.reindex(in_print).set_axis(own), others])
    index = papers.index
    theirs = with_average(papers.rename(columns=lambda name: name.removeprefix("mIoU.")), datasets, averaged)
    ours = with_average(wide(chosen, "mIoU", index), datasets, averaged)
    status = filled(wide(chosen, "status", index).reindex(columns=ours.columns), "")
    left_out = wide(chosen, "skipped", index).reindex(columns=ours.columns).astype("float64") > 0
    left_out["average"] = left_out[averaged].any(axis=1)
    standard, as_published = set(own[rows["standard"]]), set(own[rows["published_protocol"]])

    marked = filled(papers["marks"], "").to_dict()
    for names in as_published:
        marked[names] = marked[names].replace("§", "")  # the protocol of the score is that of the row
    for number, names in enumerate(index, start=3):
        is_own, marks = number - 3 < len(own), marked[names]
        trained = isinstance(papers.at[names, "trained_on"], str)
        for column, name in enumerate(names, start=1):
            write(sheet.cell(number, column), f"{name} {TRAINED}" * trained or name if column == 1 else name)
            sheet.cell(number, column).font = PLAIN if is_own else GREY
        for place, name in enumerate(ours.columns):
            value, outcome = ours.at[names, name], status.at[names, name]
            if pd.isna(value):
                value, mark = {"done": "no score"}.get(outcome, outcome), ""
            else:
                mark = LEFT_OUT if left_out.at[names, name] else ""
            score(sheet.cell(number, 4 + 2 * place), value, marks=mark)
            score(sheet.cell(number, 5 + 2 * place), theirs.at[names, name], GREY, ONE_DECIMAL, marks)
    comparable = [number for number, names in enumerate(index, start=3) if names in standard]
    same_protocol = [number for number, names in enumerate(index, start=3) if papers.at[names, "marks"] == ""]
    for column in range(4, 4 + 2 * len(ours.columns), 2):
        cells = [sheet.cell(row, column) for row in comparable]
        bold_best([cell for cell in cells if LEFT_OUT not in cell.number_format])
        bold_best([sheet.cell(row, column + 1) for row in same_protocol])
    rules(sheet, 3 + 2 * len(ours.columns), {3 + len(own), 3 + len(index)})
    legend(sheet, len(index) + 4, averaged, papers)
    fit(sheet, 2, frozen="D3", skip_from=len(index) + 3)


def wide(chosen: pd.DataFrame, column: str, index: pd.MultiIndex) -> pd.DataFrame:
    """One row of names a row, one column a dataset; pandas' missing value where there is no run."""
    return chosen.pivot(index=NAMES, columns="dataset", values=column).reindex(index)


def with_average(scores: pd.DataFrame, datasets: list[str], averaged: list[str]) -> pd.DataFrame:
    """Scores by dataset, and as the last column their mean over `averaged` for rows that have all of them."""
    scores = scores.reindex(columns=datasets).astype("float64")
    return pd.concat([scores, scores[averaged].mean(axis=1, skipna=False).rename("average")], axis=1)


def legend(sheet, row: int, averaged: list[str], papers: pd.DataFrame) -> None:
    trained_on = ", ".join(sorted(papers["trained_on"].dropna().unique())) or "none"
    used = set("".join(filled(papers["marks"], "")))
    more = [f"{mark}: {meaning}." for mark, meaning in MARKS.items() if mark in used]
    more.append(f"average: over {', '.join(TITLES[name] for name in averaged)}, where a row has all of them.")
    more.append(f"{TRAINED}: trained, on {trained_on}.")
    for number, text in enumerate((*NOTES, *more), start=row):
        write(sheet.cell(number, 1), text, GREY)


def rules(sheet, last_column: int, below: set[int]) -> None:
    """A line left of every dataset, and one above each row of `below`: under ours, and under the table."""
    for row in range(1, max(below) + 1):
        for column in range(1, last_column + 1):
            left = column > 3 and column % 2 == 0 and row < max(below)
            if left or row in below:
                border = BOTH_LINES if left and row in below else LEFT_LINE if left else TOP_LINE
                sheet.cell(row, column).border = border
