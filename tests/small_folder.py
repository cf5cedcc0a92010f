"""A folder of small images, and the segment command on it, with the embedded models on tiny windows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import scenes
from proxyclip.command import segment

ROOT = Path(__file__).parents[1]
CLASSES = ["sky", "grass; meadow", "sea"]
# Measured anew in each process, the choice of kernels could differ, and with it the last bits of scores.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PROXYCLIP_CPU_LINEAR": "mkl"}
FAST = ("--set", "short_side=64", "--precision", "fp32")  # one window or two


def draw_images(folder: Path, names, height: int = 40, width: int = 56) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image, _ = scenes.draw(number, 64)  # (64, 64, 3)
        Image.fromarray(np.ascontiguousarray(image[:height, :width])).save(path)


def segment_here(*arguments) -> None:
    """Runs the command in this process; SystemExit for anything but success."""
    segment.main(["--classes", ", ".join(CLASSES), "--device", "cpu", *FAST, *map(str, arguments)])


def command(*arguments) -> list[str]:
    """The same for a process of its own."""
    return [
        *(sys.executable, str(ROOT / "segment.py"), "--classes", ", ".join(CLASSES), "--device", "cpu"),
        *(*FAST, *map(str, arguments)),
    ]


def segment_there(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, **options)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """File -> what changes whenever it is written again."""
    return {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in files_in(folder)}
