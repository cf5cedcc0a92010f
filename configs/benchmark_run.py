"""A model on a benchmark: its evaluation, and everything that is printed and written about it."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from configs.base import EvalConfig
from configs.protocol import unseen_classes
from configs.published import PUBLISHED
from datasets.segmentation import ROOT_HINT
from proxyclip.errors import InputError
from proxyclip.evaluation.predictions import PredictionWriter, run_name
from proxyclip.evaluation.progress import Progress
from proxyclip.files import write_json
from proxyclip.reports.html_report import format_run, format_score
from proxyclip.reports.run_log import append_run, log_entry, read_log
from proxyclip.vocabulary import Vocabulary


@dataclass
class Run:
    """A model and a benchmark, ready to evaluate."""

    options: argparse.Namespace
    config: EvalConfig
    model: "proxyclip.Segmentor"  # noqa: F821  (imported with torch, once the command line is checked)
    samples: Sequence
    vocabulary: Vocabulary
    ranks: "proxyclip.evaluation.ranks.Ranks"  # noqa: F821
    protocol: dict
    changed: dict
    stored: "heads.checkpoint.StoredHead | None" = None  # noqa: F821  (the file of a trained head)

    def __post_init__(self):
        self.names = {"dataset": self.config.data.name, "model": self.model.method}
        self.names |= {key: self.model.settings()[key] for key in ("clip", "vfm")}
        self.log = self.options.workdir / "results.jsonl"
        self.folder = run_name(*self.names.values(), self.protocol)  # of its own pictures, predictions, reports

    @property
    def predict(self) -> "proxyclip.evaluation.loop.Predict":  # noqa: F821
        """From a stream of images to their labels, for `evaluate`."""
        from proxyclip.evaluation.loop import predict_labels

        return partial(
            predict_labels,
            model=self.model,
            vocabulary=self.vocabulary,
            threshold=self.config.threshold or 0.0,
            batch_windows=self.options.batch_windows,
        )


def print_finished(run: Run, line: dict) -> None:
    print(format_run(line, PUBLISHED))
    print(f"already evaluated on {line.get('started')}: see {run.log}")
    if run.options.json:
        write_json(run.options.json, line)
    if run.options.show_dir or run.options.save_predictions or run.options.report:
        print("note: panels, predictions and reports are written during evaluation: run without --resume to get them")


def evaluate(run: Run):
    """The counts of all images on rank 0, None on the others."""
    from proxyclip.evaluation.loop import evaluate
    from proxyclip.evaluation.reading import choose_workers

    options, data = run.options, run.config.data
    predictions = options.workdir / "predictions" / run.folder if options.save_predictions else None
    panels = options.show_dir / run.folder if options.show_dir else None
    writer = PredictionWriter(data.classes, data.colours, predictions, panels) if predictions or panels else None
    return evaluate(
        run.predict,
        run.samples,
        len(data.classes),
        resize=run.model.resize,
        device=run.model.device,
        workers=choose_workers(options.workers, run.model.device, run.ranks.per_machine),
        skip_bad=options.skip_bad,
        write=writer,
        progress=Progress(options.workdir, run.protocol),
        resume="resume" if options.resume else "restart" if options.restart else "refuse",
        limit=options.limit,
        ranks=run.ranks,
        name=data.name,
    )


def record(run: Run, counts, started: str) -> None:
    """Prints the scores, appends them to the log, writes the workbook and, on request, the report."""
    from proxyclip.reports.workbook import render

    data = run.config.data
    if not counts.images:
        raise InputError(f"{data.name}: none of {len(counts.skipped)} images could be used")
    names = run.names | ({"trained": run.stored.trained} if run.stored else {})
    unseen = unseen_classes(data, run.stored and run.stored.metadata)
    line = log_entry(names, data.classes, counts, unseen, run.protocol, run.changed, started)
    try:
        append_run(run.log, line)
    finally:  # a full disk, or an output that nobody reads, costs one of the two at most
        print("\n" + format_run(line, PUBLISHED))
    if run.options.json:
        write_json(run.options.json, line)
    Progress(run.options.workdir, run.protocol).clear()
    lines, notes = read_log(run.log)
    print(*(f"note: {note}" for note in notes), sep="\n", end="\n" if notes else "")
    render(lines, run.log.with_suffix(".xlsx"), PUBLISHED)
    print(f"written to {run.log} and {run.log.with_suffix('.xlsx')}")
    if run.options.report:
        from proxyclip.reports.html_report import write_report

        folder = run.options.report / run.folder
        page = write_report(
            folder,
            line,
            counts,
            run.samples,
            colours=data.colours,
            predict=run.predict,
            resize=run.model.resize,
            published=PUBLISHED,
        )
        print(f"report: {page}")


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
