"""Options that the scripts share."""

import argparse
from pathlib import Path

from proxyclip.errors import InputError


def new_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring, line by line."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where images come from, and where results go."""
    add = parser.add_argument
    add("--data-root", type=Path, help="folder of all datasets (default: $PROXYCLIP_DATA, else data/)")
    add("--workdir", type=Path, default=Path("work/eval"), help="for results (default: work/eval)")
    add("--limit", type=int, metavar="N", help="only the first N images of a dataset")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """What computes, and how much at a time."""
    add = parser.add_argument
    add("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    add("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")
    add("--batch-windows", type=int, metavar="N", help="windows of an image that run together (default: by their size)")
    add("--workers", type=int, metavar="N", help="processes that read images (default: up to 8; on a CPU 1)")


def check_numbers(options: argparse.Namespace, **least: int) -> None:
    """InputError for the first of these options that is below its least value."""
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            raise InputError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")
