"""Files made from files, by several processes, and never half: what all converters share.

Every file is written under a temporary name and renamed when it is complete, and a file that is there is not made
again. So a conversion may be stopped at any moment, by kill -9 too: the same command continues where it stopped.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from proxyclip.errors import InputError, NotFound
from proxyclip.files import write_whole
from proxyclip.runtime import progress_bar


@dataclass(frozen=True)
class Task:
    """One file to make: `convert(source, target)` writes it, as a whole or not at all."""

    convert: Callable[[Any, Path], None]
    source: Any
    target: Path


def run(tasks: Sequence[Task], out: Path, processes: int = 1) -> int:
    """Makes the files that are not there, and returns how many these were.

    Raises the first InputError or NotFound; InputError before anything is written if a target lies outside `out`.
    """
    if processes < 1:
        raise InputError(f"--processes must be at least 1, not {processes}")
    for task in tasks:
        if not Path(os.path.normpath(task.target)).is_relative_to(os.path.normpath(out)):
            raise InputError(
                f"{task.target} would be written outside {out}: the download contains a path that leads out of it"
            )
    todo = [task for task in tasks if not task.target.exists()]
    for folder in {task.target.parent for task in todo}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create the folder {folder}: {error.strerror or error}") from None
    bar = partial(progress_bar, total=len(todo), name=out.name, unit="file")
    if processes == 1:
        for task in bar(todo):
            do(task)
        return len(todo)
    try:
        with ProcessPoolExecutor(processes, initializer=_end_with_parent) as pool:
            for _ in bar(pool.map(do, todo, chunksize=16)):
                pass
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, possibly out of memory; the same command continues where it stopped"
        ) from None
    return len(todo)


def _end_with_parent() -> None:
    # Workers whose parent was killed would go on with what they have been given, beside the next run.
    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def do(task: Task) -> None:
    try:
        task.convert(task.source, task.target)
    except (InputError, NotFound):
        raise
    except OSError as error:  # a full disk, a folder without write permission
        reason = error.strerror or error
        raise InputError(f"cannot write {task.target}: {reason}; then run the same command again") from None


def link(source: Path, target: Path) -> None:
    """A symbolic link to `source`, relative so that the folders can move together; a hard link where there are none."""
    if not (source := source.resolve()).is_file():
        raise NotFound(f"{source} does not exist")
    try:
        target.symlink_to(os.path.relpath(source, target.parent.resolve()))
    except OSError:
        os.link(source, target)


def write_lines(lines: Sequence[str], target: Path) -> None:
    """A split file."""
    text = "".join(f"{line}\n" for line in lines)
    write_whole(target, lambda file: file.write(text.encode()))


def save_label(label: np.ndarray, target: Path) -> None:
    """(H, W) as it is, to the last digit: uint8 as PNG, uint16 as TIFF."""
    kind = "PNG" if label.dtype == np.uint8 else "TIFF"
    write_whole(target, lambda file: Image.fromarray(label).save(file, kind))


def found(folder: Path, pattern: str, hint: str) -> list[Path]:
    """The files below `folder` that fit a pattern, sorted; NotFound with the hint if there is none."""
    paths = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    if not paths:
        raise NotFound(f"no file matches {folder / pattern}; {hint}")
    return paths


def lookup(table: dict[int, int], rest: int) -> np.ndarray:
    """(256,) uint8: what each stored value becomes; `rest` for values that the table does not hold."""
    values = np.full(256, rest, np.uint8)
    values[list(table)] = list(table.values())
    return values


def converted(table: np.ndarray, stored: np.ndarray, path: Path) -> np.ndarray:
    """`table[stored]`; InputError that names the file if it holds a value beyond the table."""
    if stored.min() < 0 or stored.max() >= len(table):
        raise InputError(
            f"the label {path} contains values from {stored.min()} to {stored.max()}, not 0 to {len(table) - 1}"
        )
    return table[stored]
