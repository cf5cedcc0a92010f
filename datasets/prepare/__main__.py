"""Turns a raw download into what the benchmarks read.

    python -m datasets.prepare NAME [RAW] [--data-root DIR] [--processes N]

RAW is the folder where the download was unpacked; if it is not given, it lies in its place below the data root. The
outputs go below the data root, next to links to the images: nothing is copied, except for ade847, whose published
version has images of its own. A conversion that was stopped continues when the same command is given again.
"""

import argparse
import os
from importlib import import_module
from pathlib import Path

from datasets.prepare.tasks import run
from datasets.segmentation import data_root
from proxyclip.errors import NotFound, main_guard, nearest

NAMES = ("ade847", "cityscapes", "coco_object", "coco_stuff", "context", "context459", "voc_aug")


@main_guard
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("raw", metavar="RAW", nargs="?", type=Path, help="where the download was unpacked")
    parser.add_argument("--data-root", metavar="DIR", type=Path, help="of all datasets ($PROXYCLIP_DATA, else data/)")
    parser.add_argument("--processes", metavar="N", type=int, default=os.cpu_count(), help="default: one a core")
    arguments = parser.parse_args(argv)
    prepare(arguments.name, arguments.raw, arguments.data_root, arguments.processes)


def prepare(name: str, raw: Path | None = None, root: Path | None = None, processes: int = 1) -> None:
    """Runs one converter from `raw` into its place below the data root."""
    if name not in NAMES:
        raise NotFound(f"no converter is called {name!r}; {nearest(name, NAMES)}")
    converter = import_module(f"datasets.prepare.{name}")
    root = data_root(root)
    raw, out = raw or root / converter.RAW_FOLDER, root / converter.FOLDER
    tasks = converter.tasks(raw, out)
    made = run(tasks, out, processes)
    print(f"{name}: {made} files made, {len(tasks) - made} were there already, in {out}")


if __name__ == "__main__":
    main()
