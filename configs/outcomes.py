"""Several evaluations: what each is, how it ended, and both as a table for the terminal."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from datasets.segmentation import ROOT_HINT
from proxyclip.reports.html_report import format_score


class Task(NamedTuple):
    """One evaluation: a preset, a method, and the configuration file of a benchmark. For a trained head, its file as it
    was given, the name of the head, and what the file holds."""

    model: str
    method: str
    config: Path
    stored: "heads.checkpoint.StoredHead | None" = None  # noqa: F821  (imported with torch, only where there is one)


class Outcome(NamedTuple):
    """The outcome of a task: "done", "missing" or "failed"; the line of its run, or the reason why there is none."""

    what: str
    run: dict | None = None
    why: str = ""


def table(outcomes: list[tuple[Task, Outcome]]) -> str:
    """One line per task; below, each reason for a missing or failed one, once, and what to do."""
    width = max(16, *(len(task.model) + 1 for task, _ in outcomes))
    lines = [f"{'model':<{width}}{'method':<12}{'benchmark':<22}{'mIoU':>8}{'aAcc':>8}{'images':>8}"]
    reasons: dict[str, list[str]] = {}
    for task, (what, run, why) in outcomes:
        figures = f"{what:>8}"
        if run:
            figures = f"{format_score(run['mIoU']):>8}{format_score(run['aAcc']):>8}{run['images']:>8}"
        lines.append(f"{task.model:<{width}}{task.method:<12}{task.config.stem:<22}{figures}")
        if why:
            reasons.setdefault(f"{what}: {why}", []).append(task.config.stem)
    for reason, found in reasons.items():
        lines += ["", *wrapped(f"{', '.join(dict.fromkeys(found))} {reason.removesuffix(ROOT_HINT).strip()}")]
    if any(reason.endswith(ROOT_HINT) for reason in reasons):
        lines += ["", f"{ROOT_HINT}."]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Lines of at most 110 characters; commands are not broken, so that they can be pasted."""
    whole = re.sub(r"python -m \S+ \S+", lambda command: command[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]
