"""Evaluates a model on a benchmark.

    python eval.py --config cfg_voc20.py                             the paper's model on Pascal VOC
    python eval.py --config cfg_scenes.py --model mini               the embedded one, without network and downloads
    python eval.py --config cfg_voc20.py --method maskclip           another method under the same protocol
    python eval.py --config cfg_voc20.py --set beta=1.4              another setting, of the model or of the protocol
    python eval.py --config cfg_voc20.py --resume                    continues a stopped run
    bash dist_test.sh cfg_voc20.py 8                                 on eight GPUs

The scores are printed and added as one line to WORKDIR/results.jsonl, from which WORKDIR/results.xlsx is rendered.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proxyclip.reports.summary import format_run

from configs.base import EvalConfig
from configs.load import load_config
from configs.overrides import Overrides, read_overrides
from configs.protocol import changes, protocol_of
from configs.published import PUBLISHED
from proxyclip.errors import InputError, main_guard
from proxyclip.evaluation.partial_counts import Progress
from proxyclip.evaluation.prediction_writer import PredictionWriter, run_name
from proxyclip.files import writable_folder, write_whole
from proxyclip.image_io import resize_to
from proxyclip.reports.run_log import append_run, log_entry, read_log
from proxyclip.vocabulary import Vocabulary


def parse(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="a name in configs/, such as cfg_voc20.py, or a path")
    add("--model", default="vitb16-dino", help="a preset (default: vitb16-dino, the paper's)")
    add("--method", default="proxyclip", help="proxyclip (default), maskclip or clip")
    add(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="FIELD=VALUE",
        dest="settings",
        help="of the protocol (short_side, split, words, ...) or of the model (beta, templates, clip, ...)",
    )
    add("--data-root", type=Path, help="folder of all datasets (default: $PROXYCLIP_DATA, else data/)")
    add("--workdir", type=Path, default=Path("work/eval"), help="for results (default: work/eval)")
    unfinished = parser.add_mutually_exclusive_group()
    unfinished.add_argument("--resume", action="store_true", help="continue a stopped run of the same protocol")
    unfinished.add_argument("--restart", action="store_true", help="discard a stopped run of the same protocol")
    add("--limit", type=int, help="only the first N images")
    add("--skip-bad", action="store_true", help="count, name and leave out what cannot be read")
    add("--show-dir", type=Path, help="write image | ground truth | prediction of every image to a folder of the run")
    add("--save-predictions", action="store_true", help="write WORKDIR/predictions/RUN/STEM.png")
    add("--report", type=Path, metavar="DIR", help="write charts and a page about the result to a folder of the run")
    add("--json", type=Path, metavar="FILE", help="write this run's line of results.jsonl there, too")
    add("--check", action="store_true", help="only check the configuration, the settings and the dataset")
    add("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    add("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")
    add("--batch-windows", type=int, help="windows of an image that run together (default: by their size)")
    add("--workers", type=int, help="processes that read images (default: up to 8; on a CPU 1)")
    return parser.parse_args(arguments)  # fmt: skip


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    for name, least in (("limit", 1), ("batch_windows", 1), ("workers", 0)):
        if (value := getattr(options, name)) is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    overrides = read_overrides(load_config(options.config), options.settings, options.method)
    data, split = overrides.config.data, overrides.config.split
    samples = data.open(options.data_root, split, allow_missing=options.skip_bad)
    vocabulary = Vocabulary.parse(overrides.config.queries, data.classes)
    for folder in filter(None, (options.workdir, options.show_dir, options.report)):
        writable_folder(folder)
    if options.check:
        plan_of(options, overrides)
        return
    from proxyclip.evaluation.distributed import joined  # here: errors found above do not wait for torch

    with joined() as ranks:
        run = build(options, overrides, samples, vocabulary, ranks)
        if options.resume and (line := ranks.from_first(finished(run))):
            print_finished(run, line)
            return
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        counts = evaluate(run)
        if ranks.first:
            record(run, counts, started)


@dataclass
class Run:
    """A model and a benchmark, ready to meet."""

    options: argparse.Namespace
    config: EvalConfig
    model: "proxyclip.Segmentor"  # noqa: F821  (imported with torch, once the command line is checked)
    samples: Sequence
    vocabulary: Vocabulary
    ranks: "proxyclip.evaluation.distributed.Ranks"  # noqa: F821
    protocol: dict
    changed: dict

    def __post_init__(self):
        settings, data = self.model.settings(), self.config.data
        models = {key: settings[key] for key in ("clip", "vfm")}
        self.names = {"dataset": data.name, "model": self.model.method} | models
        self.log = self.options.workdir / "results.jsonl"
        self.resize = partial(resize_to, size_for=self.model.size_for)  # what is sent to the workers
        self.folder = run_name(*self.names.values(), self.protocol)  # of its own pictures, predictions, reports

    def predict(self, image, size):
        """(3, h, w) RGB in [0, 1] and (H, W) -> labels (H, W), integers."""
        threshold, batch_windows = self.config.threshold or 0.0, self.options.batch_windows
        return self.model.predict(image, size, self.vocabulary, threshold, batch_windows).labels.cpu().numpy()


# Build: the model, and what its scores depend on


def plan_of(options, overrides: Overrides, standard: bool = False):
    """What is to be loaded; standard: what the benchmark and the preset alone would load."""
    from proxyclip.build import plan
    from proxyclip.evaluation.distributed import own_device

    device, chosen, precision = own_device(options.device), overrides.model, options.precision
    if standard:
        chosen = {name: chosen[name] for name in ("clip", "vfm") if name in chosen}
        precision = "auto"
    sizes = (overrides.standard if standard else overrides.config).model_options
    return plan(options.model, method=options.method, **sizes | chosen, device=device, precision=precision)


def build(options, overrides: Overrides, samples, vocabulary: Vocabulary, ranks) -> Run:
    planned = plan_of(options, overrides)
    model = planned.build()
    protocol = protocol_of(options.config, overrides.config, model, samples, options.limit)
    changed = changes(overrides, planned, plan_of(options, overrides, standard=True), protocol["limit"])
    return Run(options, overrides.config, model, samples, vocabulary, ranks, ranks.from_first(protocol), changed)


def finished(run: Run) -> dict | None:
    """The line of an earlier run of the same protocol."""
    lines = [line for line in read_log(run.log)[0] if line.get("protocol") == run.protocol]
    return next((line for line in reversed(lines) if run.options.skip_bad or not line.get("skipped")), None)


def print_finished(run: Run, line: dict) -> None:
    if not run.ranks.first:
        return
    print(format_run(line, PUBLISHED))
    print(f"evaluated already, on {line.get('started')}: see {run.log}")
    write_json(run.options.json, line)
    if run.options.show_dir or run.options.save_predictions or run.options.report:
        print("note: pictures, predictions and reports are written while evaluating: leave --resume out for them")


# Evaluate


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


# Record


def record(run: Run, counts, started: str) -> None:
    """Prints the scores, adds them to the log, renders the workbook and, if asked for, the report."""
    from proxyclip.reports.workbook import render

    data = run.config.data
    if not counts.images:
        raise InputError(f"{data.name}: none of {len(counts.skipped)} images could be used")
    line = log_entry(run.names, data.classes, counts, data.unseen, run.protocol, run.changed, started)
    print("\n" + format_run(line, PUBLISHED))
    append_run(run.log, line)
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


def write_json(path: Path | None, line: dict) -> None:
    if path:
        write_whole(path, lambda file: file.write(json.dumps(line).encode()))


if __name__ == "__main__":
    main()
