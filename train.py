"""Trains a head on a benchmark.

    python train.py --config zegclip_scenes_inductive --workdir runs/zeg
                                                        on the embedded scenes and CLIP; no network, no downloads
    python train.py --config zegclip_voc20_inductive --workdir runs/zeg_voc
    python train.py --config zegclip_voc20_transductive --workdir runs/zeg_voc_st --init-from runs/zeg_voc
    python train.py --config zegclip_voc20_inductive --workdir runs/zeg_voc --resume       continues an interrupted run
    python train.py ... --set rate=1e-4 decoder_layers=2                  other settings of the run or of the head
    bash dist_train.sh zegclip_voc20_inductive 4 --workdir runs/zeg_voc   on four GPUs

WORKDIR gets last.safetensors and best.safetensors (for --checkpoint of the other scripts), state.pt (for --resume),
train.jsonl, curves.png, and files for TensorBoard if it is installed.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from configs.load import load_config
from configs.overrides import add_speed_options, check_numbers
from configs.training import TrainConfig, read_train_settings
from proxyclip.command.model_options import add_device_options, new_parser
from proxyclip.errors import InputError
from proxyclip.files import writable_folder
from proxyclip.runtime import main_guard

FILES = ("state.pt", "last.safetensors", "best.safetensors", "train.jsonl")


def parse(arguments=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config", required=True, help="a name in configs/heads/, such as zegclip_voc20_inductive, or a path")
    add("--workdir", type=Path, required=True, help="folder for checkpoints and logs")
    add("--iterations", type=int, metavar="N", help="length of the run (default: that of the configuration)")
    add("--minutes", type=float, metavar="M", help="end after M minutes at the latest; the schedule follows the clock")
    add("--seed", type=int, metavar="N", help="of weights, data and dropout (default: that of the configuration)")
    of = "of the configuration (rate, batch, accumulation, unseen, ...), its augmentation, or the head (prompts, ...)"
    add("--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", dest="settings", help=of)
    add("--resume", action="store_true", help="continue the run in WORKDIR, with the same settings")
    add("--init-from", type=Path, metavar="CHECKPOINT", help="start from these weights: a WORKDIR or a file")
    add("--data-root", type=Path, help="folder that contains the datasets (default: $PROXYCLIP_DATA or data/)")
    add("--checkpoint-clip", type=Path, metavar="FILE", help="weights of the CLIP, instead of a download")
    add("--limit", type=int, metavar="N", help="evaluate on the first N images only, which scores are recorded with")
    add("--check", action="store_true", help="only check the configuration, the settings and the dataset, then exit")
    add_device_options(parser)
    add_speed_options(parser)
    return parser.parse_args(arguments)


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    check_numbers(options, iterations=1, seed=0, limit=1, workers=0, batch_windows=1)
    if options.minutes is not None and not 0 < options.minutes <= 1e6:
        raise InputError(f"--minutes must be above 0 and at most 1000000, not {options.minutes}")
    config = settings_of(options)
    planned = plan_of(options, config)
    samples = [config.data.open(options.data_root, split) for split in (config.train_split, config.evaluated)]
    start = start_of(options, config, planned)
    writable_folder(options.workdir)
    if options.check:
        check_workdir(options)
        return
    from heads.training.loop import NotFinite
    from proxyclip.evaluation.progress import hold_lock
    from proxyclip.evaluation.ranks import start_ranks

    # One process per GPU: gradients travel through NCCL, everything else through gloo on the CPU.
    backend = "cpu:gloo,cuda:nccl" if planned.device.type == "cuda" and options.device in ("auto", "cuda") else "gloo"
    with start_ranks(backend, "continue from the last save with --resume") as ranks, ExitStack() as locks:
        if ranks.is_main:
            locks.enter_context(hold_lock(options.workdir / ".lock", "a training run", options.workdir))
            check_workdir(options)
        try:
            run(options, config, planned, samples, start, ranks)
        except NotFinite as error:
            stop(options, error, ranks)


def settings_of(options) -> TrainConfig:
    """The configuration with all settings of the command line."""
    from heads import find_head

    config = load_config(options.config, TrainConfig)
    own = [f"{name}={value}" for name in ("iterations", "seed") if (value := getattr(options, name)) is not None]
    return read_train_settings(config, [*options.settings, *own], find_head(config.head).Options)


def plan_of(options, config: TrainConfig):
    from heads.training.plan import plan_head
    from proxyclip.evaluation.ranks import rank_device

    names = config.data.classes, config.seen
    place = rank_device(options.device), options.precision, options.checkpoint_clip
    return plan_head(config.head, config.options, config.clip, *names, *place)


def start_of(options, config: TrainConfig, planned):
    """The checkpoint of --init-from, or None."""
    from heads.training.plan import open_start

    if options.init_from:
        return open_start(options.init_from, planned, config.setting)
    if config.setting == "transductive" and not options.resume:
        print("note: without --init-from CHECKPOINT, pseudo labels come from untrained weights", file=sys.stderr)
    return None


def check_workdir(options) -> None:
    """InputError if the folder holds a run that is not to be continued."""
    found = [name for name in FILES if (options.workdir / name).exists()]
    if found and not options.resume:
        raise InputError(f"{options.workdir} holds a run: --resume continues it, a new one needs another --workdir")
    if found and FILES[0] not in found:
        raise InputError(f"{options.workdir} cannot be resumed: its {FILES[0]} is missing")


def stop(options, error, ranks) -> None:
    """Ends a run whose numbers are not finite; this is no invalid input, so the exit code is 1."""
    if ranks.is_main:
        from heads.checkpoint import LAST, read_metadata

        iteration = read_metadata(options.workdir / LAST).training["iteration"]
        print(
            f"error: training stopped in {error}. {options.workdir / LAST} is that of iteration {iteration}: try a "
            "lower rate, clip_norm=1, or --precision fp32",
            file=sys.stderr,
        )
    else:
        time.sleep(1)  # the first one tells the reason
    raise SystemExit(1)


def run(options, config: TrainConfig, planned, samples, start, ranks) -> None:
    """Trains, from the start or from the state in the workdir."""
    from configs.training_data import training_batches
    from heads.checkpoint import BEST, LAST
    from heads.training.log import CURVES, LOG, write_curves
    from heads.training.loop import scores_on, train
    from proxyclip.evaluation.reading import choose_workers

    images, evaluated = samples
    training = begin(options, config, planned, samples, start, ranks)
    if training.progress.finished:
        print(f"already trained: {options.workdir} holds all {training.progress.iteration} iterations")
        training.check_best()
        return
    workers = choose_workers(options.workers, planned.device, ranks.per_machine)
    scores = scores_on(
        evaluated,
        training.head,
        left_out=config.left_out,
        limit=training.limit,
        workers=workers,
        batch_windows=options.batch_windows,
        ranks=ranks,
    )
    stream = training_batches(
        config,
        images,
        crop=planned.options.image_size,
        start=training.progress.iteration * training.images,
        rank=ranks.rank,
        ranks=ranks.world,
        workers=workers,
        device=planned.device,
    )
    try:
        with stream as batches:
            train(training, batches, scores)
    finally:
        if training.log:
            training.log.close()
    if ranks.is_main:
        write_curves(options.workdir / LOG, options.workdir / CURVES)
        written = [name for name in (BEST, LAST, LOG, CURVES) if (options.workdir / name).exists()]
        print(f"written to {options.workdir}: {', '.join(written)}")
    training.check_best()


def begin(options, config: TrainConfig, planned, samples, start, ranks):
    """The run as it starts, or as it was when its state was saved."""
    from heads.training.recipe import Recipe, Schedule
    from heads.training.run import begin, describe
    from proxyclip.backbones.layers import cpu_settings

    images, evaluated = map(len, samples)
    limit = options.limit if options.limit and options.limit < evaluated else None
    settings = config.record() | {
        "minutes": options.minutes,
        "precision": str(planned.dtype).removeprefix("torch."),
        "images_per_iteration": config.batch * config.accumulation * ranks.world,
        "training_images": images,
        "limit": limit,
        **cpu_settings(planned.device),
    }
    training = begin(
        planned,
        select(Recipe, config),
        select(Schedule, config, kind=config.schedule, minutes=options.minutes),
        folder=options.workdir,
        settings=settings,
        facts={"dataset": config.data.name, "setting": config.setting, "unseen": config.unseen},
        ranks=ranks,
        limit=limit,
        resume=options.resume,
        start=start,
    )
    if ranks.is_main:
        print(describe(training, images))
        if config.published_batch not in (None, training.images):
            print(f"note: published runs have {config.published_batch} images per iteration")
    return training


def select(parts: type, config: TrainConfig, **others):
    """A dataclass with all fields that it shares with the configuration."""
    shared = {entry.name: getattr(config, entry.name) for entry in fields(parts) if hasattr(config, entry.name)}
    return parts(**shared, **others)


if __name__ == "__main__":
    main()
