"""results.jsonl: one line per run, the source of all tables."""

import contextlib
import errno
import json
import math
import numbers
import os
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import scores, seen_unseen
from proxyclip.files import write_whole


def log_entry(
    names: dict,
    classes: tuple[str, ...],
    counts,
    unseen: dict,
    protocol: dict,
    changed: dict,
    started: str,
) -> dict:
    """The line of one run, as plain JSON values.

    names: dataset, model, clip and vfm; of trained weights also trained: the dataset, the setting and a digest, by
    which tables tell them apart. classes: K names in label order. counts: of `evaluate`. unseen: split -> the classes
    that zero-shot training leaves out. protocol: everything that the scores depend on. changed: field -> value of what
    this run changed from the standard protocol of its benchmark; {} for a standard run. started: "2026-01-31 12:00:00".
    """
    averages = scores(counts.matrix)
    figures = averages.pop("per_class")
    entry = {
        **names,
        "dataset": to_text(names["dataset"]),
        "model": to_text(names["model"]),
        "changed": changed,
        "images": len(counts.images),
        **averages,
        "seconds": round(counts.seconds, 3),
        "skipped": counts.skipped,
        "zero_shot": {
            split: seen_unseen(counts.matrix, map(classes.index, left_out)) for split, left_out in unseen.items()
        },
        "per_class": {name: {key: figures[key][index] for key in figures} for index, name in enumerate(classes)},
        "started": started,
        "protocol": protocol,
    }
    return to_plain(entry)


def append_run(path: Path, run: dict) -> None:
    """Adds one run as one line, in a single write; values that JSON lacks are converted as `to_plain` says.

    A torn last line, left by a full disk or a power cut, is moved to PATH.torn first. Raises InputError if the line
    cannot be written; the file is then as it was.
    """
    line = (json.dumps(to_plain(run), ensure_ascii=False, allow_nan=False) + "\n").encode()
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
            with contextlib.suppress(OSError):  # the next run sets a torn line aside
                os.truncate(path, size)
            raise
    except OSError as error:
        raise InputError(
            f"cannot write the result to {path} ({error.strerror or error}); fix this, then rerun with --resume: "
            "nothing is evaluated again"
        ) from None


def set_aside_torn_line(path: Path) -> None:
    """Leaves whole lines only: a last line without a newline gets one if it is whole, or goes to PATH.torn."""
    if not path.is_file():
        return
    lines = path.read_bytes()
    last = lines[lines.rfind(b"\n") + 1 :]
    if not last:
        return
    if parse_run(last) is not None:
        with open(path, "ab") as file:
            file.write(b"\n")
        return
    with open(path.with_name(path.name + ".torn"), "ab") as file:
        file.write(last + b"\n")
    write_whole(path, lambda file: file.write(lines[: len(lines) - len(last)]))


def read_log(path: Path) -> tuple[list[dict], list[str]]:
    """All valid runs, oldest first, and a sentence for each line that is left out; no file: no runs.

    Raises InputError if the file cannot be read.
    """
    if not path.exists():
        return [], []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error})") from None
    runs, notes = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        run = parse_run(line)
        if run is None:
            notes.append(f"{path}, line {number}, is torn or not a valid run; it is left out of the tables")
        else:
            runs.append(run)
    return runs, notes


def find_run(path: Path, protocol: dict, with_skipped: bool) -> dict | None:
    """The newest run of exactly that protocol, or None; with_skipped: also one that left images out."""
    protocol = to_plain(protocol)
    runs = [run for run in read_log(path)[0] if run.get("protocol") == protocol]
    return next((run for run in reversed(runs) if with_skipped or not run.get("skipped")), None)


SCORES = ("aAcc", "mIoU", "mAcc", "mIoU_present", "mAcc_present", "fwIoU", "never_predicted", "zero_IoU")
MOST_SETTINGS = 500  # each becomes a column, of which a sheet has 16384
MOST_DIGITS = 15  # what a float, and so a spreadsheet, holds of an integer
MOST_LEVELS = 20


def is_name(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_text(value) -> bool:
    return value is None or isinstance(value, str)


def is_number(value) -> bool:
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**MOST_DIGITS


def is_count(value) -> bool:
    return is_number(value) and not isinstance(value, float)


def is_percent(value) -> bool:
    return is_number(value) and (value is None or value < 100.001)  # rounding: a mean of hundreds may exceed 100


def is_class(value) -> bool:
    """The figures of one class: IoU and Acc in percent, and the pixels labelled and predicted."""
    percents, counts = ("IoU", "Acc"), ("labelled", "predicted")
    return isinstance(value, dict) and all(
        check(value.get(key)) for keys, check in ((percents, is_percent), (counts, is_count)) for key in keys
    )


def dict_of(check):
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def is_protocol(value) -> bool:
    return isinstance(value, dict) and len(value) <= MOST_SETTINGS and is_count(value.get("limit"))


def is_changed(value) -> bool:
    return value is None or (isinstance(value, dict) and len(value) <= MOST_SETTINGS)


def is_training(value) -> bool:
    """What weights were trained on, as texts; None for a model without training."""
    return value is None or dict_of(is_text)(value)


# Field -> its check. Fields that are not here are ignored.
CHECKS = {
    "dataset": is_name,
    "model": is_name,
    **dict.fromkeys(("clip", "vfm", "started", "missing", "failed"), is_text),
    **dict.fromkeys(SCORES, is_percent),
    "images": is_count,
    "seconds": is_number,
    "skipped": dict_of(lambda why: isinstance(why, str)),
    "zero_shot": dict_of(dict_of(is_percent)),
    "per_class": dict_of(is_class),
    "protocol": is_protocol,
    "changed": is_changed,
    "trained": is_training,
}
ABSENT = dict.fromkeys(CHECKS) | {"skipped": {}, "zero_shot": {}, "per_class": {}, "protocol": {}}


def parse_run(line: bytes) -> dict | None:
    """The run of a line, with None or {} for the fields that it lacks; None for a line that is not a valid run."""
    try:
        run = to_plain(json.loads(line))
    except (ValueError, RecursionError):
        return None
    if not isinstance(run, dict):
        return None
    run = ABSENT | run
    return run if all(check(run[field]) for field, check in CHECKS.items()) else None


def to_plain(value, level: int = 0):
    """The same value in JSON's own types, so that it can always be written.

    NumPy and torch values become numbers and lists; NaN and infinity None; lone surrogates, as in file names
    that are not UTF-8, their escapes; integers beyond 64 bits hexadecimal text; anything else its text. What is nested
    more than MOST_LEVELS deep is cut off.
    """
    if level > MOST_LEVELS:
        return "…"
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value) if abs(value) < 2**63 else hex(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {to_text(key): to_plain(item, level + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item, level + 1) for item in value]
    return to_text(value)


def to_text(value) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()
