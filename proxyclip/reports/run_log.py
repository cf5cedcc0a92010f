"""results.jsonl: one line per run, the source of all tables."""

import contextlib
import errno
import json
import os
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import scores, seen_unseen
from proxyclip.files import write_whole
from proxyclip.reports.run_line import parse_run, to_plain, to_text


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
