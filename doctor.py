"""Checks the benchmarks on disk: what is there, what is wrong with it, what to download and how to fix it.

    python doctor.py [NAME ...] [--data-root DIR] [--split SPLIT] [--sample 50]

NAME is a configuration (voc20, cfg_voc20 or a path); all of them if none is given. Reads a sample of the images and
label maps, spread over the split. Exits with 1 if a dataset is there but invalid, or one that was named is missing.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from configs.load import load_config, names
from datasets.examine import examine
from datasets.segmentation import SegmentationData, data_root
from proxyclip.errors import InputError, main_guard, nearest


@main_guard
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*")
    parser.add_argument("--data-root", type=Path, help="folder of all datasets (default: $PROXYCLIP_DATA, else data/)")
    parser.add_argument("--split", help="default: the one that the configuration evaluates")
    parser.add_argument("--sample", type=int, default=50, help="pairs to read, of each dataset (default 50)")
    arguments = parser.parse_args(argv)
    if arguments.sample < 0:
        raise InputError(f"--sample must be 0 or more, not {arguments.sample}")
    configs = [load_config(name) for name in arguments.names or names()]
    if arguments.split is not None:
        configs = having(configs, arguments.split, all_of_them=bool(arguments.names))
    root = data_root(arguments.data_root)
    states = []
    for config in configs:
        if isinstance(config.data, SegmentationData):
            diagnosis = examine(config.data, root, arguments.split or config.split, arguments.sample)
            print(diagnosis, end="\n\n")
            states.append(diagnosis.state)
        else:
            print(f"{config.data.name}: ok, generated on demand", end="\n\n")
            states.append("ok")
    print(f"data root {root}: {', '.join(f'{count} {state}' for state, count in Counter(states).items())}")
    return int("invalid" in states or bool(arguments.names and "missing" in states))


def having(configs: list, split: str, all_of_them: bool) -> list:
    """The configurations whose dataset has a split of that name; InputError if none has, or one of all that must."""
    without = [config.data for config in configs if split not in config.data.splits]
    if without and (all_of_them or len(without) == len(configs)):
        known = {name for data in without for name in data.splits}
        raise InputError(f"{', '.join(data.name for data in without)}: no split {split!r}; {nearest(split, known)}")
    for data in without:
        print(f"{data.name}: no split {split!r}, only {', '.join(data.splits)}", end="\n\n")
    return [config for config in configs if split in config.data.splits]


if __name__ == "__main__":
    sys.exit(main())
