"""Runs as pandas DataFrames, the basis of all tables."""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from proxyclip.errors import NotFound
from proxyclip.reports.run_log import SCORES, read_log

NAMES = ["row", "clip", "vfm"]  # of a row of a table
NUMBERS = [*SCORES, "seconds", "images_per_second", "published"]
COUNTS = ["images", "skipped"]
COLUMNS = [
    "dataset", "row", "model", "clip", "vfm", "changed", "standard", "published_protocol", "status", *SCORES, "images",
    "skipped", "seconds", "images_per_second", "started", "note", "published", "published_marks", "published_model",
]  # fmt: skip


def read_runs(path: str | os.PathLike, published: dict | None = None) -> pd.DataFrame:
    """The runs of a results.jsonl, or of the folder that holds one: one row a run, oldest first.

    | column | |
    | --- | --- |
    | dataset, model, clip, vfm | names; vfm is missing (None or NaN) where no vision model is used |
    | row | the model's name, its training, and what the run changed: the name of its row in the tables |
    | changed | "" for a run of the benchmark's standard protocol, else as "beta 1.6, short_side 96" |
    | standard | whether it is one: only standard runs of a dataset compare with each other |
    | published_protocol | whether it follows the protocol of the method's published runs, with which it compares |
    | status | "done", "missing" (the dataset was not there) or "failed"; `note` says why |
    | aAcc, mIoU, mAcc, mIoU_present, mAcc_present, fwIoU | percent |
    | never_predicted, zero_IoU | percent of the labelled classes |
    | images, skipped | counts: images scored, and images left out because they could not be used |
    | seconds, images_per_second, started | started is a timestamp |
    | note | what to know before quoting the scores |
    | zero_shot.SPLIT.SCORE | pAcc, mIoU(S), mIoU(U) and hIoU of each set of unseen classes |
    | protocol.FIELD | everything that the scores depend on |
    | published, published_marks | the score in print for standard runs, and what sets its protocol apart |
    | published_model | the model that it is printed for, with the same clip and vfm |

    published: a dict as `proxyclip.reports.frames` describes it, such as configs.published.PUBLISHED; without it
    the last three columns are empty. A line that is not a valid run is left out with a warning. Raises NotFound where
    there is no file, and InputError if it cannot be read.
    """
    path = Path(path)
    path = path / "results.jsonl" if path.is_dir() else path
    if not path.exists():
        raise NotFound(f"{path} does not exist: pass a results.jsonl, or the --workdir of an evaluation")
    runs, notes = read_log(path)
    if notes:
        more = f" (and {len(notes) - 3} more lines)" if len(notes) > 3 else ""
        warnings.warn("; ".join(notes[:3]) + more, stacklevel=2)
    return runs_frame(runs, published or {})


def runs_frame(runs: list[dict], published: dict) -> pd.DataFrame:
    """One row per run, in order; columns as documented in `read_runs`."""
    frame = pd.DataFrame([flat(run, published) for run in runs])
    frame = frame.reindex(columns=[*COLUMNS, *(name for name in frame.columns if name not in COLUMNS)])
    frame[NUMBERS] = frame[NUMBERS].astype("float64")
    frame[COUNTS] = frame[COUNTS].astype("Int64")
    for name in ("standard", "published_protocol"):
        frame[name] = frame[name].astype(bool)
    frame["started"] = pd.to_datetime(frame["started"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    last = ["published", "published_marks", "published_model"]
    return frame[[name for name in frame.columns if name not in last] + last]


def flat(run: dict, published: dict) -> dict:
    """One run as a flat row."""
    paper, row = published_score(run, published), published_row(run, published)
    published_protocol = of_published_runs(run)
    images, seconds = run.get("images"), run.get("seconds")
    return {
        **{key: run.get(key) for key in ("dataset", "model", "clip", "vfm", *SCORES, "images", "seconds", "started")},
        "row": row_name(run),
        "changed": changes(run),
        "standard": not changes(run) and not published_protocol,
        "published_protocol": published_protocol,
        "status": next((outcome for outcome in ("missing", "failed") if run.get(outcome)), "done"),
        "skipped": len(run.get("skipped", {})),
        "images_per_second": images / seconds if images and seconds else None,
        "note": note(run),
        "published": paper.score if paper else None,
        "published_marks": paper.marks if paper else "",
        "published_model": row["model"] if row else "",
        **{
            f"zero_shot.{split}.{name}": value
            for split, scores in run.get("zero_shot", {}).items()
            for name, value in scores.items()
        },
        **{
            f"protocol.{key}": value_text(value) if isinstance(value, (list, dict)) else value
            for key, value in run.get("protocol", {}).items()
        },
    }


def note(run: dict) -> str:
    """What to know about a run before quoting its scores."""
    parts = [f"{outcome}: {run[outcome]}" for outcome in ("missing", "failed") if run.get(outcome)]
    if skipped := run.get("skipped"):
        parts.append(f"left out: {', '.join(list(skipped)[:5])}{', …' if len(skipped) > 5 else ''}")
    return "; ".join(parts)


def newest(frame: pd.DataFrame) -> pd.DataFrame:
    """The newest run for each row and dataset; runs without scores are used only if there is no other.

    Rows are in the order in which their models first appear, standard runs first. clip and vfm are "–" where there is
    none; the index still identifies the run.
    """
    frame = frame.assign(clip=filled(frame["clip"], "–"), vfm=filled(frame["vfm"], "–"))
    frame["scored"] = frame["mIoU"].notna()
    found = frame.sort_values("scored", kind="stable").drop_duplicates([*NAMES, "dataset"], keep="last")
    model = frame.groupby(["model", "clip", "vfm"], sort=False).ngroup()
    row = frame.groupby(NAMES, sort=False).ngroup()
    order = found.assign(model_place=model, changes=~found["standard"], row_place=row)
    return order.sort_values(["model_place", "changes", "row_place"], kind="stable").drop(
        columns=["scored", "model_place", "changes", "row_place"]
    )


def filled(data, value):
    """A frame or column with missing values replaced by `value`, whatever the data types."""
    return data.astype(object).where(data.notna(), value)


def classes_frame(runs: list[dict], chosen: pd.DataFrame) -> pd.DataFrame:
    """One row per class and run, for the runs in `chosen`: names of its row, class, IoU, Acc, labelled, predicted."""
    names = [*NAMES, "dataset", "standard", "images"]
    rows = [
        {**figures, **own, "class": name}
        for index, own in chosen[names].to_dict("index").items()
        for name, figures in runs[index].get("per_class", {}).items()
    ]
    return pd.DataFrame(rows, columns=[*names, "class", "IoU", "Acc", "labelled", "predicted"])


def zero_shot_frame(runs: list[dict], chosen: pd.DataFrame) -> pd.DataFrame:
    """One row per run and set of unseen classes, for the runs in `chosen`."""
    names = ["dataset", *NAMES]
    rows = [
        {**scores, **own, "split": split, "setting": (runs[index].get("trained") or {}).get("setting")}
        for index, own in chosen[names].to_dict("index").items()
        for split, scores in runs[index].get("zero_shot", {}).items()
    ]
    return pd.DataFrame(rows, columns=[*names, "split", "setting", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU"])


NOT_RECORDED = "protocol not recorded"
MOST_LETTERS = 60  # of one value


def changes(run: dict) -> str:
    """What the run changed, as "beta 1.6, short_side 96"; "" for a standard run.

    Lines written before `changed` existed do not say: they are "protocol not recorded", after the number of images if
    that was limited. A line without a score has nothing to compare and changed nothing unless it says so.
    """
    changed = run.get("changed")
    if changed is not None:
        return ", ".join(describe(field, changed[field]) for field in sorted(changed))
    if run.get("mIoU") is None:
        return ""
    limit = run.get("protocol", {}).get("limit")
    return f"{describe('limit', limit)}, {NOT_RECORDED}" if limit else NOT_RECORDED


def of_published_runs(run: dict) -> bool:
    """Whether a run follows the protocol of the method's published runs instead of the benchmark's standard."""
    return run.get("protocol", {}).get("name") == "published"


def row_name(run: dict) -> str:
    """The model's name, followed by what the run changed: "ProxyCLIP (beta 1.6, short_side 96)".

    Runs under the protocol of the published runs have rows of their own, "NACLIP, published protocol", and so have
    trained weights, named after their training and a digest: "ZegCLIP, voc20 inductive 1a2b3c".
    """
    changed, trained = changes(run), " ".join(filter(None, (run.get("trained") or {}).values()))
    name = f"{run['model']}, {trained}" if trained else run["model"]
    name += ", published protocol" * of_published_runs(run)
    return f"{name} ({changed})" if changed else name


def describe(field: str, value) -> str:
    if field == "limit" and isinstance(value, int):
        return f"first {value} images"
    text = "none" if value is None else value_text(value)
    if len(text) > MOST_LETTERS:  # still different for different values
        text = f"{text[:MOST_LETTERS]}… [{hashlib.sha256(text.encode()).hexdigest()[:6]}]"
    return f"{field} {text}"


def value_text(value) -> str:
    """A plain JSON value for a reader: yes and no, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


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
