"""COCO-Object from COCO-Stuff: writes label maps for the 80 thing classes and background, and links the images.

    python datasets/cvt_coco_object.py STUFF_ROOT -o OUT

STUFF_ROOT holds annotations/val2017/*.png (raw stuffthingmaps) and images/val2017/*.jpg, or train2017, or both. The
same as `python -m datasets.prepare coco_object`, with both folders named.
"""

import argparse
import os
import sys
from pathlib import Path

if not __package__:  # run by its path: Python then looks for modules beside this file instead of in the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from datasets.prepare import coco_object  # noqa: E402
from datasets.prepare.tasks import run  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402


@main_guard
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stuff_root", metavar="STUFF_ROOT", type=Path, help="where COCO-Stuff was unpacked")
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="where COCO-Object is written")
    parser.add_argument("--processes", metavar="N", type=int, default=os.cpu_count(), help="default: one per core")
    arguments = parser.parse_args(argv)
    tasks = coco_object.tasks(arguments.stuff_root, arguments.out)
    made = run(tasks, arguments.out, arguments.processes)
    print(f"{made} files written, {len(tasks) - made} already there, in {arguments.out}")


if __name__ == "__main__":
    main()
