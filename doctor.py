"""Checks the datasets on disk: reports missing and invalid files, what to download, and how to convert it.

    python doctor.py [NAME ...] [--data-root DIR] [--split SPLIT] [--sample 50]

NAME is a configuration (voc20, cfg_voc20 or a path); default: all of them. Reads a sample of images and label maps,
evenly spaced over the split. The exit code is 1 if a dataset on disk is invalid, or a dataset that was named is
missing.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from configs.load import load_config, names
from datasets.examine import examine
from datasets.segmentation import SegmentationData, data_root
from proxyclip.errors import InputError, nearest
from proxyclip.runtime import main_guard


@main_guard
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*")
    parser.add_argument(
        "--data-root", type=Path, help="folder that contains the datasets (default: $PROXYCLIP_DATA or data/)"
    )
    parser.add_argument("--split", help="split to check (default: the one in the configuration)")
    parser.add_argument(
        "--sample", type=int, default=50, help="pairs of image and label to read per dataset (default: 50)"
    )
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
    """The configurations whose dataset has this split; InputError if none has it, or one that was named has not."""
    without = [config.data for config in configs if split not in config.data.splits]
    if without and (all_of_them or len(without) == len(configs)):
        known = {name for data in without for name in data.splits}
        raise InputError(f"{', '.join(data.name for data in without)}: no split {split!r}; {nearest(split, known)}")
    for data in without:
        print(f"{data.name}: no split {split!r}, only {', '.join(data.splits)}", end="\n\n")
    return [config for config in configs if split in config.data.splits]


if __name__ == "__main__":
    sys.exit(main())
