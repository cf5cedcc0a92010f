"""Evaluates a model on a benchmark.

    python eval.py --config cfg_voc20.py                             the paper's model on Pascal VOC
    python eval.py --config cfg_scenes.py --preset mini              the embedded models; no network, no downloads
    python eval.py --config cfg_voc20.py --method naclip             another method under the same protocol
    python eval.py --config cfg_voc20.py --method naclip --protocol published    under that of its published runs
    python eval.py --config cfg_voc20.py --checkpoint runs/zeg_voc   a trained head, under the protocol of its training
    python eval.py --config cfg_voc20.py --set beta=1.4              another setting of the model or the protocol
    python eval.py --config cfg_voc20.py --resume                    continues an interrupted run
    bash dist_test.sh cfg_voc20.py 8                                 on eight GPUs

Prints the scores and appends them as one line to WORKDIR/results.jsonl, from which WORKDIR/results.xlsx is generated.
"""

import argparse
import time
import warnings
from pathlib import Path

from configs.benchmark_run import Run, evaluate, print_finished, record
from configs.load import load_config, trained_as
from configs.overrides import Overrides, add_data_options, add_speed_options, check_numbers, read_overrides
from configs.protocol import changes, protocol_of
from proxyclip.command.model_options import PRESET, add_model_options, named_model, new_parser
from proxyclip.files import writable_file, writable_folder
from proxyclip.reports.run_log import find_run
from proxyclip.runtime import main_guard
from proxyclip.vocabulary import Vocabulary


def parse(arguments=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config", required=True, help="a name in configs/, such as cfg_voc20.py, or a path")
    what = "ours: one protocol for all methods (default); published: that of the method's own published runs, and of a "
    what += "trained head's on other datasets"
    add("--protocol", choices=("ours", "published"), default="ours", help=what)
    add_model_options(parser, heads=True, preset=f"{PRESET}, the paper's")
    add("--model", dest="preset", help=argparse.SUPPRESS)  # its earlier name
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
    add("--compile", action="store_true", help="compile the model with torch.compile first")
    add_speed_options(parser)
    options = parser.parse_args(arguments)
    options.named = named_model(options, PRESET)
    return options


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    check_numbers(options, limit=1, batch_windows=1, workers=0)
    overrides = overrides_of(options)
    data, split = overrides.config.data, overrides.config.split
    samples = data.open(options.data_root, split, allow_missing=options.skip_bad)
    with warnings.catch_warnings():
        if not overrides.words:  # the published words of a benchmark are what they are
            warnings.simplefilter("ignore")
        vocabulary = overrides.config.vocabulary
    for folder in filter(None, (options.workdir, options.show_dir, options.report)):
        writable_folder(folder)
    if options.json:
        writable_file(options.json)
    planned = plan_of(options, overrides)
    if options.check:
        return
    from proxyclip.evaluation.ranks import start_ranks  # here: errors found above do not wait for torch

    with start_ranks() as ranks:
        run = build(options, overrides, planned, samples, vocabulary, ranks)
        if options.resume and (line := ranks.broadcast(find_run(run.log, run.protocol, options.skip_bad))):
            if ranks.is_main:
                print_finished(run, line)
            return
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        counts = evaluate(run)
        if ranks.is_main:
            record(run, counts, started)


def overrides_of(options) -> Overrides:
    config, published = load_config(options.config), options.protocol == "published"
    if options.checkpoint is None:
        method = options.named.get("method", "proxyclip")
        return read_overrides(config, options.settings, method, published=published)
    import heads  # here: errors found above do not wait for torch

    metadata = heads.open_checkpoint(options.checkpoint, **trained_as(options.train_config)).metadata
    kind, trained_on = heads.find_head(metadata.head).Options, metadata.training.get("dataset")
    return read_overrides(config, options.settings, metadata.head, kind, published=published, trained_on=trained_on)


def plan_of(options, overrides: Overrides, standard: bool = False):
    """The model to load; standard: the one that the benchmark and the preset or checkpoint alone would load."""
    import heads
    from proxyclip.evaluation.ranks import rank_device
    from proxyclip.loading import plan

    device, precision = rank_device(options.device), options.precision
    chosen = options.named | overrides.model
    if standard:
        kept = ("preset", "method", "clip", "vfm", "checkpoint_clip")
        chosen = {name: value for name, value in chosen.items() if name in kept}
        precision = "auto"
    chosen = overrides.of_protocol | chosen
    if options.checkpoint is not None:
        chosen = trained_as(options.train_config) | chosen | {"benchmark": overrides.config.data.classes}
        return heads.plan(options.checkpoint, **chosen, device=device, precision=precision)
    sizes = (overrides.standard if standard else overrides.config).model_options
    return plan(**sizes | chosen, device=device, precision=precision)


def build(options, overrides: Overrides, planned, samples, vocabulary: Vocabulary, ranks) -> Run:
    model = planned.build()
    if options.compile:
        model.compile_scores()
    protocol = protocol_of(options.config, overrides.config, model, samples, options.limit, overrides.published)
    standard = plan_of(options, overrides, standard=True)
    refinement = model.refinement
    if refinement is not None:
        refinement.check(item.stem for item in samples.items[: options.limit])
    titles = title_of(refinement), title_of(standard.refine and standard.refine.build())
    changed = changes(overrides, planned, standard, protocol["limit"], protocol["weights"], *titles)
    stored = None if options.checkpoint is None else planned.checkpoint
    parts = overrides.config, model, samples, vocabulary, ranks, ranks.broadcast(protocol), changed, stored
    return Run(options, *parts)


def title_of(refinement) -> str:
    return refinement.title if refinement is not None else "none"


if __name__ == "__main__":
    main()
