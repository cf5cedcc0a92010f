"""Converts a raw download to the files that a benchmark reads.

    python -m datasets.prepare NAME [RAW] [--data-root DIR] [--processes N]

RAW is the folder where the download was unpacked (default: its place below the data root). The output goes below the
data root, next to links to the images. Nothing is copied, except for ade847, whose published version has its own
images. Run the same command again to continue an interrupted conversion.
"""

import argparse
import os
from importlib import import_module
from pathlib import Path

from datasets.prepare.tasks import run
from datasets.segmentation import data_root
from proxyclip.errors import NotFound, nearest
from proxyclip.runtime import main_guard

NAMES = ("ade847", "cityscapes", "coco_object", "coco_stuff", "context", "context459", "voc_aug")


@main_guard
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("raw", metavar="RAW", nargs="?", type=Path, help="where the download was unpacked")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        type=Path,
        help="default: $PROXYCLIP_DATA or data/",
    )
    parser.add_argument("--processes", metavar="N", type=int, default=os.cpu_count(), help="default: one per core")
    arguments = parser.parse_args(argv)
    prepare(arguments.name, arguments.raw, arguments.data_root, arguments.processes)


def prepare(name: str, raw: Path | None = None, root: Path | None = None, processes: int = 1) -> None:
    """Runs one converter, from `raw` to its place below the data root."""
    if name not in NAMES:
        raise NotFound(f"no converter is called {name!r}; {nearest(name, NAMES)}")
    converter = import_module(f"datasets.prepare.{name}")
    root = data_root(root)
    raw, out = raw or root / converter.RAW_FOLDER, root / converter.FOLDER
    tasks = converter.tasks(raw, out)
    made = run(tasks, out, processes)
    print(f"{name}: {made} files written, {len(tasks) - made} already there, in {out}")


if __name__ == "__main__":
    main()
