"""A contact sheet of synthetic scenes: python -m datasets.scenes --show 24 --size 256 --out scenes.png"""

import argparse
from pathlib import Path

from datasets.scenes.scene import SPLITS, contact_sheet
from proxyclip.errors import InputError
from proxyclip.files import writable_file, write_image
from proxyclip.runtime import main_guard


@main_guard
def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m datasets.scenes", description="Makes a contact sheet of scenes.")
    parser.add_argument("--show", type=int, default=24, metavar="N", help="how many scenes, 1 to 400 (default 24)")
    parser.add_argument("--seed", type=int, default=SPLITS["train"][0], help="the first scene's seed")
    parser.add_argument("--size", type=int, default=128, help="side of a scene in pixels, 32 to 512 (default 128)")
    parser.add_argument("--out", type=Path, default=Path("scenes.png"), help="the image to write")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.show <= 400:
        raise InputError(f"--show must be from 1 to 400, not {chosen.show}")
    writable_file(chosen.out)
    write_image(chosen.out, contact_sheet(chosen.show, chosen.seed, chosen.size))
    print(chosen.out)


if __name__ == "__main__":
    main()
