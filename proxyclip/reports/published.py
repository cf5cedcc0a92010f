"""Published scores beside measured ones: which row belongs to a run, and how its protocol differs.

`published` is a dict with two lists, in percent. "mIoU": rows with

    model, clip, vfm          the names of the row, unique together; vfm None if there is none
    mIoU                      dataset -> score, as printed
    metric                    which of our averages it corresponds to: "mIoU" (default) or "mIoU_present"
    same_protocol_as_ours     whether the score can be compared with a standard run without a mark (default: no)
    own_protocol_of           the method whose runs under its published protocol the score can be compared with
    confirmed                 whether the score was read in its source (default: no)
    trained_on                what the model was trained on for segmentation; None for training-free methods
    training                  the same as {dataset, setting} in our records: the row is not that of another training
    average, needs, weights, read, protocol, source, note        facts for the sheet of published scores

"zero_shot": rows with model, clip, dataset, split, setting, pAcc, S, U, h or h_computed, spread, source, note.
"""

from typing import NamedTuple

import pandas as pd

from proxyclip.reports.changes import changes, of_published_runs

MARKS = {  # mark -> its meaning
    "§": "another protocol than this project's (sizes, windows, thresholds or class prompts): no comparison",
    "¶": "mean over the classes that are labelled, as detectron2: compare with mIoU_present",
    "?": "not confirmed in its source",
}
SHEET_NOTE = "sheet published has the source and the protocol of each"


class PublishedScore(NamedTuple):
    """A published score: the average it corresponds to, its marks in tables, and what they mean."""

    score: float
    metric: str
    marks: str
    remarks: list[str]


def marks_of(row: dict) -> str:
    """The marks of a published row, such as "§¶"; "" for one under our own protocol."""
    holds = {
        "§": not row.get("same_protocol_as_ours"),
        "¶": row.get("metric") == "mIoU_present",
        "?": not row.get("confirmed"),
    }
    return "".join(mark for mark in MARKS if holds[mark])


def published_row(run: dict, published: dict) -> dict | None:
    """The row of the same models under the same protocol; None if there is none or the run changed its protocol.

    For trained models it is the row of the same training, whatever its protocol, which marks tell.
    """
    if changes(run):
        return None
    names, trained = [run.get(key) for key in ("model", "clip", "vfm")], run.get("trained")
    for row in published.get("mIoU", []):
        if of_published_runs(run) and not trained:
            found = names == [row.get("own_protocol_of"), row["clip"], row["vfm"]]
        else:
            comparable = row.get("training", {}).items() <= trained.items() if trained else same_protocol(row)
            found = names == [row["model"], row["clip"], row["vfm"]] and comparable
        if found:
            return row
    return None


def same_protocol(row: dict) -> bool:
    """Whether scores of a row can stand beside those of a standard run."""
    return bool(row.get("same_protocol_as_ours") or row.get("trained_on"))


def published_score(run: dict, published: dict) -> PublishedScore | None:
    """The score of `published_row` on the run's dataset; None if there is none."""
    row = published_row(run, published)
    if row is None or run["dataset"] not in row["mIoU"]:
        return None
    marks = marks_of(row)
    if of_published_runs(run):
        marks = marks.replace("§", "")  # its protocol is that of the run
    remarks = [MARKS[mark] for mark in marks]
    return PublishedScore(row["mIoU"][run["dataset"]], row.get("metric", "mIoU"), marks, remarks)


def published_frame(published: dict) -> pd.DataFrame:
    """One row per published row by model, clip, vfm ("–" for none): mIoU.DATASET, marks, trained_on and the rest."""
    frame = pd.json_normalize(published.get("mIoU", []))
    frame = frame.reindex(columns=list(dict.fromkeys(["model", "clip", "vfm", "trained_on", *frame.columns])))
    frame["marks"] = [marks_of(row) for row in published.get("mIoU", [])]
    frame["vfm"] = frame["vfm"].astype(object).where(frame["vfm"].notna(), "–")
    return frame.set_index(["model", "clip", "vfm"])
