"""results.jsonl as a workbook: a paper's table, all runs with their protocols, and the classes of each dataset."""

import gc
import io
import math
import re
import sys
from pathlib import Path

import pandas as pd
from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.properties import PageSetupProperties

from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.reports.frames import (
    MARKS,
    NAMES,
    SHEET_NOTE,
    classes_frame,
    filled,
    newest,
    published_frame,
    runs_frame,
    value_text,
    zero_shot_frame,
)


def render(runs: list[dict], path: Path, published: dict) -> None:
    """Writes the workbook of all runs, the lines that `read_log` returns; a reader meets the old file or the new one.

    published: scores in print, as `proxyclip.reports.frames` describes them; {} for none. They are marked as
    published wherever they stand. Raises InputError if the file cannot be replaced.
    """
    book, frame = Workbook(), runs_frame(runs, published)
    chosen = newest(frame)
    book.active.title = "benchmark"
    benchmark_sheet(book.active, frame, published)
    runs_sheet(book.create_sheet("runs"), frame)
    splits = zero_shot_frame(runs, chosen)
    if len(splits):
        zero_shot_sheet(book.create_sheet("zero-shot"), splits, published)
    if published.get("mIoU"):
        published_sheet(book.create_sheet("published"), published)
    figures = classes_frame(runs, chosen)
    by_dataset = dict(list(figures.groupby("dataset")))
    for dataset in ordered(by_dataset):
        class_sheet(book.create_sheet(sheet_name(dataset, book.sheetnames)), by_dataset[dataset])
    try:
        write_whole(path, lambda file: file.write(to_bytes(book)))
    except (OSError, InputError) as error:
        hint = "; is it open in another program?" if isinstance(error, PermissionError) else ""
        reason = error if isinstance(error, InputError) else f"cannot write {path} ({error.strerror or error}{hint})"
        raise InputError(
            f"{reason}; no scores are lost, all are in {path.with_suffix('.jsonl')}: fix this, then run "
            f"python eval_all.py --render --workdir {path.parent}"
        ) from None


def to_bytes(book: Workbook) -> bytes:
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


FACE = {"name": "Calibri", "size": 11}  # openpyxl's default
PLAIN = Font(**FACE)
GREY, HEADER = Font(**FACE, italic=True, color="707070"), Font(**FACE, bold=True, color="FFFFFF")
LINE = Side(style="thin", color="8A94A6")
LEFT_LINE, TOP_LINE, BOTH_LINES = Border(left=LINE), Border(top=LINE), Border(left=LINE, top=LINE)
HEADER_FILL = PatternFill("solid", fgColor="2F3E55")
CENTRE = Alignment(horizontal="center", vertical="center")
TWO_DECIMALS, ONE_DECIMAL = "0.00", "0.0"
PAGE_WIDTH = 320  # characters of a column's width that can still be read on one printed page
FORMULA_STARTS = ("=", "+", "-", "@")
NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


def write(cell, value, font: Font = PLAIN) -> None:
    """Puts a value into a cell: a number, a text that no program takes for a formula, or nothing for None and NaN."""
    if font is not PLAIN:  # the font of every new cell; setting one takes longer than all the rest
        cell.font = font
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        cell.value = value
        return
    cell.value = text = cell_text(value_text(value))
    cell.data_type = "s"
    cell.quotePrefix = text.startswith(FORMULA_STARTS)  # remains text when edited


def cell_text(text: str) -> str:
    """The text in one line, without what a workbook cannot hold."""
    return " ".join(NOT_IN_XML.sub("", ILLEGAL_CHARACTERS_RE.sub("", text)).split())


def header(sheet, row: int, titles: list[str]) -> None:
    for column, title in enumerate(titles, start=1):
        cell = sheet.cell(row, column)
        write(cell, title)
        cell.font, cell.fill, cell.alignment = HEADER, HEADER_FILL, CENTRE


def double_header(sheet, front: list[str], titles: list[str], pair: tuple[str, str]) -> None:
    """Two rows: the columns in front, then under each title the same two columns."""
    header(sheet, 1, [*front, *(text for title in titles for text in (title, ""))])
    header(sheet, 2, [*("" for _ in front), *pair * len(titles)])
    for column in range(1, len(front) + 1):
        sheet.merge_cells(start_row=1, end_row=2, start_column=column, end_column=column)
    for column in range(len(front) + 1, len(front) + 2 * len(titles), 2):
        sheet.merge_cells(start_row=1, end_row=1, start_column=column, end_column=column + 1)


def score(cell, value, font: Font = PLAIN, number_format: str = TWO_DECIMALS, marks: str = "") -> None:
    """A number, followed by its marks; a word about it, in grey; or nothing."""
    cell.alignment = CENTRE
    if isinstance(value, str):
        write(cell, value, GREY)
        return
    write(cell, value, font)
    cell.number_format = f'{number_format}" {marks}"' if marks else number_format


def bold_best(cells: list) -> None:
    """The best number in bold, all of them if it is reached more than once."""
    best = max((cell.value for cell in cells if isinstance(cell.value, float)), default=None)
    for cell in cells:
        if best is not None and cell.value == best:
            cell.font = Font(**FACE, bold=True, italic=cell.font.italic, color=cell.font.color)


def fit(sheet, header_rows: int, frozen: str, skip_from: int | None = None) -> None:
    """Readable widths, the header and the names always in sight, on paper too."""
    sheet.freeze_panes = frozen
    widths = 0
    for column in sheet.iter_cols(max_row=skip_from and skip_from - 1):
        texts = [printed(cell) for cell in column]
        two_wide = header_rows == 2 and column[0].column > 3
        longest = max(len(text) for text in (texts[1:] if two_wide else texts))
        if two_wide:
            title = len(sheet.cell(1, column[0].column - (column[0].column % 2)).value or "")
            longest = max(longest, title // 2 + 1)
        width = min(max(longest + 2, 8), 60)
        sheet.column_dimensions[get_column_letter(column[0].column)].width = width
        widths += width
    sheet.page_setup.orientation, sheet.page_setup.paperSize = "landscape", sheet.PAPERSIZE_A4
    sheet.page_setup.fitToHeight, sheet.page_setup.fitToWidth = 0, -(-widths // PAGE_WIDTH)
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.page_margins.left = sheet.page_margins.right = 0.4  # inches
    sheet.print_title_rows = f"1:{header_rows}"
    if sheet.page_setup.fitToWidth > 1:
        sheet.print_title_cols = f"A:{get_column_letter(sheet[frozen].column - 1)}"


def printed(cell) -> str:
    return f"{cell.value:.2f}" if isinstance(cell.value, float) else str(cell.value or "")


def sheet_name(dataset: str, taken: list[str]) -> str:
    """At most 31 characters, none of those that spreadsheets forbid, and different from those that are there."""
    name = cell_text(re.sub(r"[\[\]:*?/\\']", "_", dataset))[:28].strip() or "_"
    if name.lower() == "history":  # a name that spreadsheets keep for themselves
        name += "_"
    same = sum(other.lower() == name.lower() or other.lower().startswith(name.lower() + "-") for other in taken)
    return f"{name}-{same + 1}" if same else name


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


def class_sheet(sheet, figures: pd.DataFrame) -> None:
    """figures: the rows of one dataset of `classes_frame`. Best IoU of a class in bold, among standard runs."""
    runs = figures.drop_duplicates(NAMES)
    fullest = figures[figures["images"] == figures["images"].max()] if figures["images"].notna().any() else figures
    classes = pd.unique(pd.concat([fullest["class"], figures["class"]]))
    labelled = fullest.drop_duplicates("class").set_index("class")["labelled"].reindex(classes).fillna(0)
    shares = 100 * labelled / max(labelled.sum(), 1)
    titles = [" ".join(name for name in names if name != "–") for names in runs[NAMES].itertuples(index=False)]
    double_header(sheet, ["label", "class", "% of pixels"], titles, ("IoU", "Acc"))
    by_run = [own.set_index("class").reindex(classes) for _, own in figures.groupby(NAMES, sort=False)]
    columns = [list(zip(own["IoU"], own["Acc"], strict=True)) for own in by_run]
    comparable = [4 + 2 * place for place, standard in enumerate(runs["standard"]) if standard]
    for label, (name, share) in enumerate(zip(classes, shares, strict=True)):
        number = label + 3
        write(sheet.cell(number, 1), label)
        sheet.cell(number, 1).alignment = CENTRE
        write(sheet.cell(number, 2), name)
        score(sheet.cell(number, 3), share)
        for place, column in enumerate(columns):
            for offset, value in enumerate(column[label]):
                score(sheet.cell(number, 4 + 2 * place + offset), value)
        if len(by_run) > 1:
            bold_best([sheet.cell(number, column) for column in comparable])
    rules(sheet, 3 + 2 * len(by_run), {3 + len(classes)})
    fit(sheet, 2, frozen="D3")


FACTS = {
    "metric": "compares with our",
    "same_protocol_as_ours": "our protocol",
    "confirmed": "confirmed",
    "trained_on": "trained on",
    "needs": "needs",
    "weights": "weights",
    "read": "read",
    "protocol": "protocol",
    "source": "source",
    "note": "note",
}


def published_sheet(sheet, published: dict) -> None:
    """published: as `proxyclip.reports.frames` describes it."""
    rows = published["mIoU"]
    datasets = ordered({name for row in rows for name in row["mIoU"]})
    titles = [TITLES.get(name, name) for name in datasets]
    header(sheet, 1, ["Model", "CLIP", "VFM", *titles, "average as printed", *FACTS.values()])
    for number, row in enumerate(rows, start=2):
        for column, name in enumerate((row["model"], row["clip"], row["vfm"] or "–"), start=1):
            write(sheet.cell(number, column), name, GREY)
        scores = [*(row["mIoU"].get(name) for name in datasets), row.get("average")]
        for column, value in enumerate(scores, start=4):
            score(sheet.cell(number, column), value, GREY, ONE_DECIMAL)
        for column, name in enumerate(FACTS, start=4 + len(scores)):
            write(sheet.cell(number, column), row.get(name), GREY)
    fit(sheet, 1, frozen="D2")


COLUMNS = {  # of the frame -> title; the first seven as the published scripts print them
    "row": "Model",
    "clip": "CLIP",
    "vfm": "VFM",
    "dataset": "Dataset",
    "aAcc": "aAcc",
    "mIoU": "mIoU",
    "mAcc": "mAcc",
    "published": "published mIoU",
    "mIoU_present": "mIoU_present",
    "fwIoU": "fwIoU",
    "images": "images",
    "skipped": "skipped",
    "seconds": "seconds",
    "images_per_second": "images/s",
    "started": "started",
    "note": "note",
    "changed": "changed",
}
IN_FRONT = ("protocol.dataset", "protocol.clip", "protocol.vfm")  # have columns of their own


def runs_sheet(sheet, runs: pd.DataFrame) -> None:
    """runs: of `runs_frame`."""
    protocol = [name for name in runs.columns if name.startswith("protocol.") and name not in IN_FRONT]
    columns = COLUMNS | {name: name.removeprefix("protocol.").replace("_", " ") for name in protocol}
    header(sheet, 1, list(columns.values()))
    names = {name: filled(runs[name], "–") for name in ("clip", "vfm")}
    started = runs["started"].dt.strftime("%Y-%m-%d %H:%M:%S")
    table = filled(runs[list(columns)].assign(**names, started=started), None)
    for number, (values, marks) in enumerate(zip(table.values, runs["published_marks"], strict=True), start=2):
        for column, (name, value) in enumerate(zip(columns, values, strict=True), start=1):
            cell = sheet.cell(number, column)
            if name == "published":
                score(cell, value, GREY, ONE_DECIMAL, marks)
                continue
            write(cell, value)
            if isinstance(value, (int, float)):
                cell.alignment = CENTRE
            if isinstance(value, float) and not name.startswith("protocol."):
                cell.number_format = TWO_DECIMALS
    sheet.auto_filter.ref = f"A1:{get_column_letter(sheet.max_column)}{max(2, sheet.max_row)}"
    fit(sheet, 1, frozen="E2")


SCORES = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")
COMPUTED = "°"


def zero_shot_sheet(sheet, ours: pd.DataFrame, published: dict) -> None:
    """ours: of `zero_shot_frame`. Rows by dataset and split, ours above the published ones."""
    header(
        sheet, 1, ["Dataset", "Model", "CLIP", "VFM", "unseen classes of", "setting", *SCORES, "from", "source", "note"]
    )
    ours = ours.rename(columns={"row": "model"}).assign(setting=filled(ours["setting"], "–"), origin="ours")
    papers = [printed_row(row) for row in published.get("zero_shot", [])]
    table = pd.DataFrame([*ours.to_dict("records"), *papers])
    order = ordered(set(table["dataset"]))
    table["place"] = table["dataset"].map(order.index)
    table["published"] = table["origin"] == "published"
    table = table.sort_values(["place", "split", "published"], kind="stable")
    texts = table.reindex(columns=["dataset", "model", "clip", "vfm", "split", "setting"])
    scores = table.reindex(columns=SCORES).astype("float64")
    tails = filled(table.reindex(columns=["origin", "source", "note", "marks"]), "")
    for number, index in enumerate(table.index, start=2):
        published_row = table.at[index, "published"]
        font, decimals = (GREY, ONE_DECIMAL) if published_row else (PLAIN, TWO_DECIMALS)
        for column, value in enumerate(texts.loc[index], start=1):
            write(sheet.cell(number, column), value, font)
        for column, name in enumerate(SCORES, start=7):
            marks = tails.at[index, "marks"] if name == "hIoU" else ""
            score(sheet.cell(number, column), scores.at[index, name], font, decimals, marks)
        for column, name in enumerate(("origin", "source", "note"), start=11):
            write(sheet.cell(number, column), tails.at[index, name], font)
    last = len(table) + 3
    write(sheet.cell(last, 1), f"{COMPUTED}: the harmonic mean of the printed scores; none was printed.", GREY)
    fit(sheet, 1, frozen="C2", skip_from=last)


def printed_row(row: dict) -> dict:
    """A published row in the columns of the sheet."""
    spread = ", ".join(f"{name} ± {value}" for name, value in row.get("spread", {}).items())
    unconfirmed = "" if row.get("confirmed") else "not confirmed in its source"
    return {
        **{key: row[key] for key in ("dataset", "model", "setting")},
        "clip": row.get("clip", "–"),
        "vfm": row.get("vfm") or "–",
        "split": row.get("split", "–"),
        **dict(
            zip(SCORES, (row.get("pAcc"), row.get("S"), row.get("U"), row.get("h", row.get("h_computed"))), strict=True)
        ),
        "marks": "" if "h" in row else COMPUTED,
        "origin": "published",
        "source": row.get("source", ""),
        "note": "; ".join(filter(None, (spread, unconfirmed, row.get("note")))),
    }
