"""The sheet of published scores: one row each, with its source, its protocol, and what it can be compared with."""

from proxyclip.reports.benchmark_sheet import TITLES, ordered
from proxyclip.reports.cell_styles import GREY, ONE_DECIMAL, fit, header, score, write

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
    """published: as `proxyclip.reports.published` describes it."""
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
