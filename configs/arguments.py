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


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """How much runs at a time."""
    add = parser.add_argument
    add("--batch-windows", type=int, metavar="N", help="windows per batch (default: depends on their size)")
    add("--workers", type=int, metavar="N", help="data-loading processes (default: up to 8; 1 on a CPU)")


def check_numbers(options: argparse.Namespace, **least: int) -> None:
    """InputError for the first of these options that is below its minimum, or above its maximum in MOST."""
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            raise InputError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")
        if value is not None and value > MOST.get(name, value):
            raise InputError(f"--{name.replace('_', '-')} must be at most {MOST[name]}, not {value}")
