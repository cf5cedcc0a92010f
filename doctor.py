"""Looks at the benchmarks on disk: what is there, what is wrong with it, and what mends it.

    python doctor.py [NAME ...] [--data-root DIR] [--split val] [--sample 50]

NAME is a configuration (voc20, cfg_voc20 or a path); all of them if none is given. Reads a sample of the labels,
spread over the split, and the sizes of their images. Exits with 1 if a dataset that is there is faulty, or one that
was named is missing.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from configs.load import load_config, names
from datasets.examine import examine
from datasets.segmentation import SegmentationData, data_root
from proxyclip.errors import main_guard


@main_guard
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--sample", type=int, default=50, help="labels to read, of each dataset (default 50)")
    arguments = parser.parse_args(argv)
    root = data_root(arguments.data_root)
    states = []
    for name in arguments.names or names():
        data = load_config(name).data
        if not isinstance(data, SegmentationData):
            print(f"{data.name}: fine, made when it is asked for", end="\n\n")
            states.append("fine")
        elif arguments.split in data.splits:
            diagnosis = examine(data, root, arguments.split, arguments.sample)
            print(diagnosis, end="\n\n")
            states.append(diagnosis.state)
    print(f"data root {root}: {', '.join(f'{count} {state}' for state, count in Counter(states).items())}")
    return int("faulty" in states or bool(arguments.names and "missing" in states))


if __name__ == "__main__":
    sys.exit(main())
