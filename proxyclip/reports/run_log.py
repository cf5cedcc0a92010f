"""results.jsonl: one line a run, the truth that every table is made from."""

import contextlib
import errno
import json
import math
import os
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import ConfusionMatrix
from proxyclip.evaluation.partial_counts import Counts
from proxyclip.files import write_whole

METHODS = {"proxy": "ProxyCLIP", "value": "MaskCLIP", "vanilla": "CLIP"}  # what papers call each attention


def line_of(names: dict, classes: tuple[str, ...], tally: Counts, unseen: dict, protocol: dict, **more) -> dict:
    """The line of one run.

    names: dataset, model, clip and vfm. classes: K names in label order. unseen: by the name of a zero-shot split, the
    classes that it leaves out of training. protocol: everything that the scores depend on.
    """
    counts = ConfusionMatrix(len(classes), tally.matrix)
    scores = counts.scores()
    figures = scores.pop("per_class")
    return {
        **names,
        "images": len(tally.images),
        **scores,
        "seconds": round(tally.seconds, 3),
        "skipped": tally.skipped,
        "zero_shot": {split: counts.seen_unseen(map(classes.index, left_out)) for split, left_out in unseen.items()},
        "per_class": {name: {key: figures[key][index] for key in figures} for index, name in enumerate(classes)},
        **more,
        "protocol": protocol,
    }


def described(run: dict) -> str:
    """The scores of a run, for people."""
    names = " ".join(run[key] for key in ("model", "clip", "vfm") if run[key])
    images = f"{run['images']} image{'s' * (run['images'] != 1)}"
    lines = [
        f"{run['dataset']}: {names}, {images}, {run['images'] / max(run['seconds'], 1e-9):.3g} images/s",
        "   ".join(f"{name} {number(run[name])}" for name in ("aAcc", "mIoU", "mAcc", "mIoU_present", "fwIoU")),
    ]
    for split, scores in run["zero_shot"].items():
        lines.append(f"unseen as in {split}: " + "   ".join(f"{name} {number(scores[name])}" for name in scores))
    if run["published"] is not None:
        lines.append(f"published mIoU: {run['published']}")
    lines += [f"left out: {stem}: {why}" for stem, why in run["skipped"].items()]
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.2f}"


def append(path: Path, run: dict) -> None:
    """Adds one run as one line, in a single write; nan becomes null.

    A torn last line, left by a full disk or a power cut, is moved to PATH.torn first. Raises InputError if the line
    cannot be written; the file is then as it was.
    """
    line = (json.dumps(without_nan(run), ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        set_aside_torn_line(path)
        size = path.stat().st_size if path.is_file() else 0
        try:
            with open(path, "ab", buffering=0) as file:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # a torn line is tolerated, too
                os.truncate(path, size)
            raise
    except OSError as error:
        raise InputError(
            f"the result cannot be written to {path} ({error.strerror or error}); once mended, --resume writes it "
            "without computing it again"
        ) from None


def set_aside_torn_line(path: Path) -> None:
    """Leaves whole lines only: a last line without a newline gets one if it is whole, or goes to PATH.torn."""
    if not path.is_file():
        return
    lines = path.read_bytes()
    last = lines[lines.rfind(b"\n") + 1 :]
    if not last:
        return
    if parsed(last) is not None:
        with open(path, "ab") as file:
            file.write(b"\n")
        return
    with open(path.with_name(path.name + ".torn"), "ab") as file:
        file.write(last + b"\n")
    write_whole(path, lambda file: file.write(lines[: len(lines) - len(last)]))


def read(path: Path) -> tuple[list[dict], list[str]]:
    """All runs, oldest first, and a sentence for each line that is none; no file: no runs."""
    if not path.is_file():
        return [], []
    runs, complaints = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        run = parsed(line)
        if run is None:
            complaints.append(f"{path}, line {number}, is torn or no result; it is left out of the tables")
        else:
            runs.append(run)
    return runs, complaints


def parsed(line: bytes) -> dict | None:
    """The run of a line, or None if it is not one."""
    try:
        run = json.loads(line)
    except ValueError:
        return None
    if not isinstance(run, dict) or not all(isinstance(run.get(key), str) for key in ("dataset", "model")):
        return None
    return run if isinstance(run.get("mIoU"), (int, float, type(None))) else None


def without_nan(value):
    """The same value with None for every nan, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def latest(runs: list[dict]) -> dict[tuple, dict]:
    """(model, clip, vfm, dataset) -> its newest run, in the order in which the pairs first came.

    Runs of some of the images only are used where there is no run of all; a dataset that was missing once and has been
    evaluated since counts as evaluated.
    """
    found: dict[tuple, dict] = {}
    for run in runs:
        key = (run["model"], run.get("clip"), run.get("vfm"), run["dataset"])
        if key not in found or worth(run) >= worth(found[key]):
            found[key] = run
    return found


def worth(run: dict) -> int:
    """2 for a run of a whole dataset, 1 for one of some of its images, 0 for none."""
    if run.get("mIoU") is None:
        return 0
    return 1 if run.get("protocol", {}).get("limit") else 2
