"""A lock for one run at a time: two runs writing the same progress would count images twice.

The system releases the lock when the process ends for any reason, so nothing has to be cleaned up after kill -9. It
works across machines if their shared disk supports locks, as NFS does by default; otherwise a note is printed.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from proxyclip.errors import InputError


class Busy(InputError):
    """Another process holds the lock."""


if sys.platform == "win32":
    import msvcrt

    def lock(file) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def lock(file) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: forked workers would inherit it


@contextlib.contextmanager
def run_lock(path: Path, work: str = "the same evaluation", workdir: Path | None = None) -> Iterator[None]:
    """Holds the lock file while the block runs, then removes it. Raises Busy if another process holds it.

    work, workdir: what the other process does, and where, for the error message.
    """
    with locked_file(path, work, workdir or path.parents[1]):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove a file that is open
                path.unlink()


def locked_file(path: Path, work: str, workdir: Path):
    """The file, open and locked: closing it releases the lock."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write progress to {path} ({error.strerror or error})") from None
        try:
            lock(file)
        except (BlockingIOError, PermissionError):
            file.close()
            raise Busy(
                f"another process is running {work} in {workdir}: wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            print(
                f"note: {path.parent} has no file locks ({error.strerror or error}): start each run only once",
                file=sys.stderr,
            )
            return file
        if same_file(file, path):
            return file
        file.close()  # its owner removed it between our two steps


def same_file(file, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
