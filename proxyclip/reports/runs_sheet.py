"""The sheet of all runs: one row per run, newest last, with everything that its scores depend on."""

import pandas as pd
from openpyxl.utils import get_column_letter

from proxyclip.reports.cell_styles import CENTRE, GREY, ONE_DECIMAL, TWO_DECIMALS, fit, header, score, write
from proxyclip.reports.frames import filled

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
