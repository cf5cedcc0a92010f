"""The sheet of one dataset: IoU and accuracy per class, for the newest run of each row."""

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
