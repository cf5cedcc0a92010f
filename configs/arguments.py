"""Command-line options shared by the scripts."""

import argparse
from pathlib import Path

from proxyclip.errors import InputError

MOST = {"workers": 256}  # each is a process with the memory of an image


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where images are, and where results are written."""
    add = parser.add_argument
    add("--data-root", type=Path, help="folder that contains the datasets (default: $PROXYCLIP_DATA or data/)")
    add("--workdir", type=Path, default=Path("work/eval"), help="folder for results (default: work/eval)")
    add("--limit", type=int, metavar="N", help="only the first N images of a dataset")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """The device, and how much runs at a time."""
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    add("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")
    add("--batch-windows", type=int, metavar="N", help="windows per batch (default: depends on their size)")
    add("--workers", type=int, metavar="N", help="data-loading processes (default: up to 8; 1 on a CPU)")


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """A trained head in place of a preset."""
    add = parser.add_argument
    what = "a trained head, instead of a preset: the WORKDIR of train.py, a file in it, or a published .pth"
    add("--checkpoint", type=Path, metavar="FILE", help=what)
    how = "the configuration in configs/heads/ that a published checkpoint was trained with; checked for others"
    add("--train-config", metavar="NAME", help=how)


def with_model(options: argparse.Namespace, **defaults) -> argparse.Namespace:
    """The options with these defaults for those that name a model; InputError if one is given beside --checkpoint."""
    given = [f"--{name.replace('_', '-')}" for name in defaults if getattr(options, name) is not None]
    if options.checkpoint is not None and given:
        raise InputError(f"--checkpoint names a whole model: leave out {' and '.join(given)}")
    if options.checkpoint is None and options.train_config is not None:
        raise InputError("--train-config describes a --checkpoint: name one")
    for name, value in defaults.items():
        if options.checkpoint is None and getattr(options, name) is None:
            setattr(options, name, value)
    return options


def check_numbers(options: argparse.Namespace, **least: int) -> None:
    """InputError for the first of these options that is below its minimum, or above its maximum in MOST."""
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            raise InputError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")
        if value is not None and value > MOST.get(name, value):
            raise InputError(f"--{name.replace('_', '-')} must be at most {MOST[name]}, not {value}")
