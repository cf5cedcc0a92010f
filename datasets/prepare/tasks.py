"""Files made from files, by several processes, and never half: what all converters share.

Every output is written under a temporary name and renamed when it is complete, and an output that is there is not made
again. So a conversion may be stopped at any moment, by kill -9 too: the same command takes it up where it stopped.
"""

import multiprocessing
import os
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from proxyclip.errors import InputError, NotFound


@dataclass(frozen=True)
class Task:
    """One file to make: `convert(source, part)` writes it to the path `part`, which then becomes `target`."""

    convert: Callable[[Any, Path], None]
    source: Any
    target: Path


def run(tasks: Sequence[Task], processes: int = 1) -> int:
    """Does what is not done yet, and returns how much that was. Raises the first InputError or NotFound."""
    if processes < 1:
        raise InputError(f"--processes must be at least 1, not {processes}")
    todo = [task for task in tasks if not task.target.exists()]
    for folder in {task.target.parent for task in todo}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be made: {error.strerror or error}") from None
    # A bar that is redrawn ten times a second would fill a log.
    bar = partial(
        tqdm, total=len(todo), unit="file", disable=not todo, mininterval=0.1 if sys.stderr.isatty() else 10.0
    )
    if processes == 1:
        for task in bar(todo):
            do(task)
        return len(todo)
    try:
        with ProcessPoolExecutor(processes, initializer=_end_with_parent) as pool:
            for _ in bar(pool.map(do, todo, chunksize=16)):
                pass
    except BrokenProcessPool:
        raise InputError("a worker process was killed, out of memory perhaps; the same command goes on") from None
    return len(todo)


def _end_with_parent() -> None:
    # Workers whose parent was killed would go on with what they have been given, beside the next run.
    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def do(task: Task) -> None:
    part = task.target.with_name(f".{task.target.name}.part")
    part.unlink(missing_ok=True)  # a killed run may have left one, and if it is a link, writing would go through it
    try:
        task.convert(task.source, part)
        os.replace(part, task.target)
    except (InputError, NotFound):
        raise
    except OSError as error:  # a full disk, a folder that may not be written
        reason = error.strerror or error
        raise InputError(f"{task.target} cannot be written: {reason}; once mended, the same command goes on") from None


def link(source: Path, part: Path) -> None:
    """A symbolic link to `source`, relative so that the folders can move together; a hard link where there are none."""
    if not (source := source.resolve()).is_file():
        raise NotFound(f"{source} does not exist")
    try:
        part.symlink_to(os.path.relpath(source, part.parent.resolve()))
    except OSError:
        os.link(source, part)


def write_lines(lines: Sequence[str], part: Path) -> None:
    """A split file."""
    part.write_text("\n".join(lines) + "\n")


def save_label(label: np.ndarray, part: Path) -> None:
    """(H, W) as it is, to the last digit: uint8 as PNG, uint16 as TIFF."""
    Image.fromarray(label).save(part, "PNG" if label.dtype == np.uint8 else "TIFF")


def found(folder: Path, pattern: str, hint: str) -> list[Path]:
    """The files below `folder` that fit a pattern, sorted; NotFound with the hint if there is none."""
    paths = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not paths:
        raise NotFound(f"no file fits {folder / pattern}; {hint}")
    return paths


def lookup(table: dict[int, int], rest: int) -> np.ndarray:
    """(256,) uint8: what each stored value becomes; `rest` for values that the table does not hold."""
    values = np.full(256, rest, np.uint8)
    values[list(table)] = list(table.values())
    return values


def read_mat(path: Path) -> dict:
    """The variables of a MATLAB file. Needs scipy, which nothing else here does."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise NotFound("reading .mat files needs scipy: pip install -r requirements-prepare.txt") from None
    try:
        return loadmat(path)
    except (MatReadError, OSError, ValueError, TypeError, IndexError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as a MATLAB file: {error}") from None
