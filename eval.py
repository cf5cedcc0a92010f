"""Evaluates a model on a benchmark.

    python eval.py --config cfg_voc20.py                             the paper's model on Pascal VOC
    python eval.py --config cfg_scenes.py --model mini               the embedded models; no network, no downloads
    python eval.py --config cfg_voc20.py --method maskclip           another method under the same protocol
    python eval.py --config cfg_voc20.py --set beta=1.4              another setting of the model or the protocol
    python eval.py --config cfg_voc20.py --resume                    continues an interrupted run
    bash dist_test.sh cfg_voc20.py 8                                 on eight GPUs

Prints the scores and appends them as one line to WORKDIR/results.jsonl, from which WORKDIR/results.xlsx is generated.
"""

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.arguments import add_data_options, add_device_options, check_numbers, new_parser
from configs.base import EvalConfig
from configs.load import load_config
from configs.overrides import Overrides, read_overrides
from configs.protocol import changes, protocol_of
from configs.published import PUBLISHED
from proxyclip.errors import InputError, main_guard
from proxyclip.evaluation.partial_counts import Progress
from proxyclip.evaluation.prediction_writer import PredictionWriter, run_name
from proxyclip.files import writable_file, writable_folder, write_json
from proxyclip.image_io import resize_to
from proxyclip.reports.run_log import append_run, find_run, log_entry, read_log
from proxyclip.reports.summary import format_run
from proxyclip.vocabulary import Vocabulary


def parse(arguments=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config", required=True, help="a name in configs/, such as cfg_voc20.py, or a path")
    add("--model", default="vitb16-dino", help="a preset (default: vitb16-dino, the paper's)")
    add("--method", default="proxyclip", help="proxyclip (default), maskclip or clip")
    of = "of the protocol (short_side, split, words, ...) or of the model (beta, templates, clip, ...)"
    add("--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", dest="settings", help=of)
    add_data_options(parser)
    unfinished = parser.add_mutually_exclusive_group()
    unfinished.add_argument("--resume", action="store_true", help="continue an interrupted run of the same protocol")
    unfinished.add_argument("--restart", action="store_true", help="discard an interrupted run of the same protocol")
    add("--skip-bad", action="store_true", help="skip files that cannot be read, and list them in the record")
    add("--show-dir", type=Path, help="write panels of image, ground truth and prediction to DIR/RUN")
    add("--save-predictions", action="store_true", help="write WORKDIR/predictions/RUN/STEM.png")
    add("--report", type=Path, metavar="DIR", help="write an HTML report with charts to DIR/RUN")
    add("--json", type=Path, metavar="FILE", help="also write this run's line of results.jsonl to FILE")
    add("--check", action="store_true", help="only check the configuration, the settings and the dataset, then exit")
    add_device_options(parser)
    return parser.parse_args(arguments)


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    check_numbers(options, limit=1, batch_windows=1, workers=0)
    overrides = read_overrides(load_config(options.config), options.settings, options.method)
    data, split = overrides.config.data, overrides.config.split
    samples = data.open(options.data_root, split, allow_missing=options.skip_bad)
    with warnings.catch_warnings():
        if not overrides.words:  # the published words of a benchmark are what they are
            warnings.simplefilter("ignore")
        vocabulary = Vocabulary.parse(overrides.config.queries, data.classes)
    for folder in filter(None, (options.workdir, options.show_dir, options.report)):
        writable_folder(folder)
    if options.json:
        writable_file(options.json)
    planned = plan_of(options, overrides)
    if options.check:
        return
    from proxyclip.evaluation.distributed import joined  # here: errors found above do not wait for torch

    with joined() as ranks:
        run = build(options, overrides, planned, samples, vocabulary, ranks)
        if options.resume and (line := ranks.from_first(find_run(run.log, run.protocol, options.skip_bad))):
            if ranks.first:
                print_finished(run, line)
            return
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        counts = evaluate(run)
        if ranks.first:
            record(run, counts, started)


@dataclass
class Run:
    """A model and a benchmark, ready to evaluate."""

    options: argparse.Namespace
    config: EvalConfig
    model: "proxyclip.Segmentor"  # noqa: F821  (imported with torch, once the command line is checked)
    samples: Sequence
    vocabulary: Vocabulary
    ranks: "proxyclip.evaluation.distributed.Ranks"  # noqa: F821
    protocol: dict
    changed: dict

    def __post_init__(self):
        self.names = {"dataset": self.config.data.name, "model": self.model.method}
        self.names |= {key: self.model.settings()[key] for key in ("clip", "vfm")}
        self.log = self.options.workdir / "results.jsonl"
        self.resize = partial(resize_to, size_for=self.model.size_for)  # what is sent to the workers
        self.folder = run_name(*self.names.values(), self.protocol)  # of its own pictures, predictions, reports

    def predict(self, image, size):
        """(3, h, w) RGB in [0, 1] and (H, W) -> labels (H, W), integers."""
        threshold, batch_windows = self.config.threshold or 0.0, self.options.batch_windows
        return self.model.predict(image, size, self.vocabulary, threshold, batch_windows).labels.cpu().numpy()


def plan_of(options, overrides: Overrides, standard: bool = False):
    """The model to load; standard: the one that the benchmark and the preset alone would load."""
    from proxyclip.build import plan
    from proxyclip.evaluation.distributed import own_device

    device, chosen, precision = own_device(options.device), overrides.model, options.precision
    if standard:
        chosen = {name: chosen[name] for name in ("clip", "vfm") if name in chosen}
        precision = "auto"
    sizes = (overrides.standard if standard else overrides.config).model_options
    return plan(options.model, method=options.method, **sizes | chosen, device=device, precision=precision)


def build(options, overrides: Overrides, planned, samples, vocabulary: Vocabulary, ranks) -> Run:
    model = planned.build()
    protocol = protocol_of(options.config, overrides.config, model, samples, options.limit)
    standard = plan_of(options, overrides, standard=True)
    changed = changes(overrides, planned, standard, protocol["limit"], protocol["weights"])
    return Run(options, overrides.config, model, samples, vocabulary, ranks, ranks.from_first(protocol), changed)


def print_finished(run: Run, line: dict) -> None:
    print(format_run(line, PUBLISHED))
    print(f"already evaluated on {line.get('started')}: see {run.log}")
    if run.options.json:
        write_json(run.options.json, line)
    if run.options.show_dir or run.options.save_predictions or run.options.report:
        print("note: panels, predictions and reports are written during evaluation: run without --resume to get them")


def evaluate(run: Run):
    """The counts of all images on rank 0, None on the others."""
    from proxyclip.evaluation.evaluate import Settings, evaluate

    options, data = run.options, run.config.data
    predictions = options.workdir / "predictions" / run.folder if options.save_predictions else None
    panels = options.show_dir / run.folder if options.show_dir else None
    writer = PredictionWriter(data.classes, data.colours, predictions, panels) if predictions or panels else None
    cores = max(1, (os.cpu_count() or 1) // run.ranks.per_machine)
    workers = options.workers if options.workers is not None else 1 if run.model.device.type == "cpu" else min(8, cores)
    return evaluate(
        run.predict,
        run.samples,
        len(data.classes),
        run.resize,
        Settings(workers, options.skip_bad, writer=writer),
        Progress(options.workdir, run.protocol),
        "resume" if options.resume else "restart" if options.restart else "refuse",
        options.limit,
        run.ranks,
        data.name,
    )


def record(run: Run, counts, started: str) -> None:
    """Prints the scores, appends them to the log, writes the workbook and, on request, the report."""
    from proxyclip.reports.workbook import render

    data = run.config.data
    if not counts.images:
        raise InputError(f"{data.name}: none of {len(counts.skipped)} images could be used")
    line = log_entry(run.names, data.classes, counts, data.unseen, run.protocol, run.changed, started)
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
        page = write_report(folder, line, counts, run.samples, data.colours, run.predict, run.resize, PUBLISHED)
        print(f"report: {page}")


if __name__ == "__main__":
    main()
