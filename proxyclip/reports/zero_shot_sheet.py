"""The sheet of seen and unseen classes: the newest run of each row and split, beside published scores."""

import pandas as pd

from proxyclip.reports.benchmark_sheet import ordered
from proxyclip.reports.cell_styles import GREY, ONE_DECIMAL, PLAIN, TWO_DECIMALS, fit, header, score, write
from proxyclip.reports.frames import filled

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
