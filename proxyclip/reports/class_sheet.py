"""The sheet of one dataset: IoU and accuracy of every class, for the newest run of each row."""

import pandas as pd

from proxyclip.reports.benchmark_sheet import rules
from proxyclip.reports.cell_styles import CENTRE, bold_best, double_header, fit, score, write
from proxyclip.reports.frames import NAMES


def class_sheet(sheet, figures: pd.DataFrame) -> None:
    """figures: the rows of one dataset of `classes_frame`. Best IoU of a class in bold, among standard runs."""
    runs = figures.drop_duplicates(NAMES)
    fullest = figures[figures["images"] == figures["images"].max()] if figures["images"].notna().any() else figures
    classes = pd.unique(pd.concat([fullest["class"], figures["class"]]))
    labelled = fullest.drop_duplicates("class").set_index("class")["labelled"].reindex(classes).fillna(0)
    shares = 100 * labelled / max(labelled.sum(), 1)
    titles = [" ".join(name for name in names if name != "–") for names in runs[NAMES].itertuples(index=False)]
    double_header(sheet, ["label", "class", "% of pixels"], titles, ("IoU", "Acc"))
    by_run = [
        (standard, own.set_index("class").reindex(classes))
        for standard, (_, own) in zip(runs["standard"], figures.groupby(NAMES, sort=False), strict=True)
    ]
    for label, name in enumerate(classes):
        number = label + 3
        write(sheet.cell(number, 1), label)
        sheet.cell(number, 1).alignment = CENTRE
        write(sheet.cell(number, 2), name)
        score(sheet.cell(number, 3), float(shares[name]))
        for place, (_, own) in enumerate(by_run):
            score(sheet.cell(number, 4 + 2 * place), own.at[name, "IoU"])
            score(sheet.cell(number, 5 + 2 * place), own.at[name, "Acc"])
        if len(by_run) > 1:
            bold_best([sheet.cell(number, 4 + 2 * place) for place, (standard, _) in enumerate(by_run) if standard])
    rules(sheet, 3 + 2 * len(by_run), {3 + len(classes)})
    fit(sheet, 2, frozen="D3")
