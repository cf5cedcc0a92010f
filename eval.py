"""Evaluates a model on a benchmark.

    python eval.py --config cfg_voc20.py                             the paper's model on Pascal VOC
    python eval.py --config cfg_scenes.py --model mini               the embedded one, without network and downloads
    python eval.py --config cfg_voc20.py --set attention=value       another setting, of the model or of the protocol
    python eval.py --config cfg_voc20.py --resume                    goes on where a stopped run was
    bash dist_test.sh cfg_voc20.py 8                                 on eight GPUs

The scores are printed and added as one line to WORKDIR/results.jsonl, from which WORKDIR/results.xlsx is rendered.
"""

import argparse
import contextlib
import os
import platform
import time
from pathlib import Path

from configs import load as configs
from configs.published import PUBLISHED, published_miou
from proxyclip.errors import InputError, main_guard
from proxyclip.files import writable_folder
from proxyclip.vocabulary import Vocabulary

MODEL_SETTINGS = (
    "clip", "vfm", "checkpoint_clip", "checkpoint_vfm", "attention", "beta", "gamma", "templates", "vfm_features",
    "vfm_layer",
)  # fmt: skip


def parse(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a name in configs/, such as cfg_voc20.py, or a path")
    parser.add_argument("--model", default="vitb16-dino", help="a preset (default: vitb16-dino, the paper's)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="KEY=VALUE",
        dest="settings",
        help=f"of the protocol (short_side, crop, ...) or of the model ({', '.join(MODEL_SETTINGS)})",
    )
    parser.add_argument("--data-root", type=Path, help="folder of all datasets (default: $PROXYCLIP_DATA, else data/)")
    parser.add_argument("--workdir", type=Path, default=Path("work/eval"), help="for results (default: work/eval)")
    parser.add_argument("--resume", action="store_true", help="go on with a stopped run of the same protocol")
    parser.add_argument("--restart", action="store_true", help="give up a stopped run of the same protocol")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--skip-bad", action="store_true", help="count, name and leave out what cannot be read")
    parser.add_argument("--show-dir", type=Path, help="write image | label | prediction of every image there")
    parser.add_argument("--save-predictions", action="store_true", help="write WORKDIR/predictions/STEM.png")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write charts and a page about the result there")
    parser.add_argument("--check", action="store_true", help="only look whether configuration and dataset are in order")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    parser.add_argument("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--batch-windows", type=int, help="windows of an image that run together (default: 16, CPU 1)")
    parser.add_argument("--workers", type=int, help="processes that read images (default: up to 8; on a CPU 1)")
    return parser.parse_args(arguments)  # fmt: skip


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    for name in ("limit", "batch_windows"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers must be 0 or more, not {options.workers}")
    config, model_settings = settings_of(options)
    samples = config.data.open(options.data_root, config.split, allow_missing=options.skip_bad)

    Vocabulary.parse(config.queries)
    for folder in filter(None, (options.workdir, options.show_dir, options.report)):
        writable_folder(folder)
    if options.check:
        return
    from proxyclip.evaluation.distributed import (
        joined,  # here: what is found wrong above is told without waiting for torch
    )

    with joined() as ranks:
        run(options, config, model_settings, samples, ranks)


def settings_of(options) -> tuple:
    """The configuration and the model's settings, with what --set says in the one or the other."""
    config, of_model, of_config = configs.load_config(options.config), {}, []
    for setting in options.settings:
        key, equals, value = setting.partition("=")
        if key in MODEL_SETTINGS and equals:
            of_model[key] = number_or_text(value)
        else:
            of_config.append(setting)
    return configs.override(config, of_config, MODEL_SETTINGS), of_model


def number_or_text(text: str):
    """3 and 1.2 as numbers, everything else as it is written."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def run(options, config, model_settings: dict, samples, ranks) -> None:
    import proxyclip
    from proxyclip.evaluation import evaluate as evaluation
    from proxyclip.evaluation.distributed import own_device
    from proxyclip.evaluation.partial_counts import Progress
    from proxyclip.reports import run_log as results
    from proxyclip.reports import workbook

    model = proxyclip.load(
        options.model, **model_settings, short_side=config.short_side, crop=config.crop, stride=config.stride,
        device=own_device(options.device), precision=options.precision,
    )  # fmt: skip
    protocol = protocol_of(options, config, model, samples)
    truth = options.workdir / "results.jsonl"
    done = [run for run in results.read(truth)[0] if run.get("protocol") == protocol]
    done = [run for run in done if options.skip_bad or not run.get("skipped")]
    if options.resume and done:
        if ranks.first:
            print(results.described(done[-1]))
            print(f"evaluated already, on {done[-1]['started']}: see {truth}")
            if options.show_dir or options.save_predictions or options.report:
                print("note: pictures, predictions and reports are made while evaluating: leave --resume out for them")
        return
    progress = Progress(options.workdir, protocol)
    predict = evaluation.predictor(model, config.queries, config.threshold or 0.0, options.batch_windows)
    cores = max(1, (os.cpu_count() or 1) // ranks.per_machine)
    workers = options.workers if options.workers is not None else 1 if model.device.type == "cpu" else min(8, cores)
    settings = evaluation.Settings(workers, options.skip_bad, keep=keeper(options, config))
    resume = True if options.resume else False if options.restart else None
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    tally = evaluation.evaluate(
        predict, samples, len(config.data.classes), config.short_side, settings, progress,
        resume, options.limit, ranks, config.data.name,
    )  # fmt: skip
    if not ranks.first:
        return
    if not tally.images:
        raise InputError(f"{config.data.name}: none of {len(tally.skipped)} images could be used")

    names = {"dataset": config.data.name, "model": results.METHODS[model.attention]}
    names |= {key: model.settings[key] for key in ("clip", "vfm")}
    line = results.line_of(
        names, config.data.classes, tally, config.data.unseen, protocol,
        started=started, published=published_miou(names["model"], names["clip"], names["vfm"], names["dataset"]),
    )  # fmt: skip
    print("\n" + results.described(line))
    results.append(truth, line)
    progress.clear()
    runs, complaints = results.read(truth)
    for complaint in complaints:
        print(f"note: {complaint}")
    workbook.render(runs, truth.with_suffix(".xlsx"), PUBLISHED)
    print(f"written to {truth} and {truth.with_suffix('.xlsx')}")
    if options.report:
        from proxyclip.reports import html_report as report

        page = report.write(options.report, line, tally, samples, config.data.colours, predict, config.short_side)
        print(f"report: {page}")


def protocol_of(options, config, model, samples) -> dict:
    """Everything that the scores depend on: stopped runs go on, and runs are compared, where all of it agrees."""
    import hashlib

    import numpy
    import PIL
    import torch

    import proxyclip
    from proxyclip.backbones.weights import fingerprint

    def digest(lines) -> str:
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

    return {
        "config": Path(options.config).stem,
        **config.protocol(),
        **model.settings,
        "templates_hash": digest(model.templates),
        "weights": fingerprint(model.state_dict()),
        "images_hash": digest(item.stem for item in samples.items),
        "limit": options.limit if options.limit and options.limit < len(samples.items) else None,
        "average": "mIoU mmseg, mIoU_present detectron2",
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
        "versions": f"proxyclip {proxyclip.__version__}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"Pillow {PIL.__version__}, Python {platform.python_version()}",
    }


def keeper(options, config):
    """What is done with every prediction beside counting it, or None."""
    from proxyclip.evaluation.prediction_writer import Keeper

    predictions = options.workdir / "predictions" if options.save_predictions else None
    if predictions or options.show_dir:
        return Keeper(config.data.classes, config.data.colours, predictions, options.show_dir)
    return None


if __name__ == "__main__":
    main()
