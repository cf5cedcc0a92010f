"""A contact sheet of training samples: augmented images, and below each its labels as a model is given them.

python tools/show_samples.py --config cfg_voc20.py --show 12 --out samples.png
python tools/show_samples.py --config cfg_scenes.py --setting transductive --scale 128 128 --crop 64
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository's own packages, also when proxyclip is not installed

from configs.load import load_config
from datasets.augment import UNLABELLED, Augment, LabelTable
from datasets.label_map import VOID
from proxyclip.errors import InputError, nearest
from proxyclip.files import writable_file, write_image
from proxyclip.pictures.legend import joined, with_legend
from proxyclip.pictures.overlay import display_size, found_entries, overlay, smooth
from proxyclip.runtime import main_guard

COLUMNS, GAP, ALPHA = 6, 8, 0.75
BESIDES = {UNLABELLED: ("an unseen class", (25, 25, 25)), VOID: ("no label", (225, 225, 225))}  # name and colour


@main_guard
def main(arguments=None) -> None:
    chosen = parse(arguments)
    if not 1 <= chosen.show <= 120:
        raise InputError(f"--show must be from 1 to 120, not {chosen.show}")
    from datasets.training import TrainingSamples  # here: --help does not wait for torch

    data = load_config(chosen.config).data
    table = label_table(data, chosen.setting, chosen.unseen)
    augment = Augment(scale=tuple(chosen.scale), crop=chosen.crop)
    samples = TrainingSamples(data.open(chosen.data_root, chosen.split), table, augment, chosen.seed)
    writable_file(chosen.out)
    write_image(chosen.out, contact_sheet(samples, chosen.show, dict(zip(data.classes, data.colours, strict=True))))
    print(chosen.out)


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="a name in configs/, such as cfg_voc20.py, or a path")
    add("--data-root", type=Path, help="folder that contains the datasets (default: $PROXYCLIP_DATA or data/)")
    add("--split", default="train", help="of the dataset (default: train)")
    add("--setting", default="inductive", choices=("inductive", "transductive", "fully"), help="default: inductive")
    add("--unseen", metavar="NAME", help="which of the dataset's splits into seen and unseen classes (default: first)")
    add("--show", type=int, default=12, metavar="N", help="how many samples, 1 to 120 (default 12)")
    add("--seed", type=int, default=0)
    default = Augment()
    add("--scale", type=int, nargs=2, default=default.scale, metavar="PIXELS", help="default: %(default)s")
    add("--crop", type=int, default=default.crop, metavar="PIXELS", help="default: %(default)s")
    add("--out", type=Path, default=Path("samples.png"), help="the image to write (default: samples.png)")
    return parser.parse_args(arguments)


def label_table(data, setting: str, unseen: str | None) -> LabelTable:
    if setting == "fully":
        return LabelTable.fully(data.classes)
    if not data.unseen:
        raise InputError(f"{data.name} has no split into seen and unseen classes; use --setting fully")
    name = unseen or next(iter(data.unseen))
    if name not in data.unseen:
        raise InputError(f"--unseen: {data.name} has no split {name!r}; {nearest(name, data.unseen)}")
    seen = tuple(label for label in data.classes if label not in data.unseen[name])
    return {"inductive": LabelTable.inductive, "transductive": LabelTable.transductive}[setting](data.classes, seen)


def contact_sheet(samples, count: int, colour_of: dict[str, tuple[int, int, int]]) -> Image.Image:
    """The first `count` of `TrainingSamples`: each image above its labels, all above a legend."""
    names = [*(name for name, _ in BESIDES.values()), *samples.table.names]
    colours = [*(colour for _, colour in BESIDES.values()), *(colour_of[name] for name in samples.table.names)]
    colours = np.array(colours, np.uint8)  # (K + 2, 3): label -2 comes first
    tiles, maps = [], []
    for position in range(count):
        image, label = samples[position]  # (3, c, c), (c, c)
        image = np.rint(image.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)  # (c, c, 3)
        maps.append(label.numpy() - UNLABELLED)
        shown = Image.fromarray(smooth(image, display_size(*image.shape[:2])))
        tiles.append(joined([shown, overlay(image, maps[-1], colours, ALPHA)]))
    rows = [joined(tiles[first : first + COLUMNS], below=False, gap=GAP) for first in range(0, count, COLUMNS)]
    sheet = joined(rows, gap=2 * GAP)
    return with_legend(sheet, found_entries(names, colours, maps), max(13, sheet.width // 80))


if __name__ == "__main__":
    main()
