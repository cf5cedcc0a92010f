"""Errors for invalid input: one sentence, and exit code 2 in every script."""

import errno
import functools
import os
import sys
import time
from typing import NoReturn

from proxyclip.threads import wait_passively

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MOST_NAMES = 40  # that an error lists


class InputError(ValueError):
    """An invalid value from the caller; the message says what is wrong and what to do."""


class NotFound(FileNotFoundError):
    """A file that does not exist: an image, a checkpoint, or weights that are neither cached nor reachable."""


def main_guard(main):
    """Wraps the `main` of a script: invalid input prints its sentence and exits with code 2, Ctrl-C with 130.

    A path that the system rejects (name too long, disk full) counts as invalid input. If the reader of the output
    closes early, as in `script | head`, the script exits silently with 141, the code for SIGPIPE. Characters that the
    output encoding lacks are escaped. Any other exception is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(*args, **kwargs):
        wait_passively()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(*args, **kwargs)
            except (InputError, NotFound) as error:
                fail(error)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise SystemExit(130) from None
            except OSError as error:
                if isinstance(error, BrokenPipeError) or (error.filename is None and error.errno not in NO_SPACE):
                    raise
                fail(f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror)
            finally:
                if sys.stdout:  # None where a shell closed it: `script >&-`
                    sys.stdout.flush()  # not at exit, where a broken pipe cannot be handled
        except BrokenPipeError:
            drop_output()
            raise SystemExit(141) from None

    return guarded


def fail(error) -> NoReturn:
    """Prints the sentence and exits with code 2."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(1)  # several processes usually fail alike: let the first one report it
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def drop_output() -> None:
    """Discards pending output after its reader has gone, which Python would report at exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def nearest(wrong: str, known) -> str:
    """The end of an error message: 'did you mean …?' if known names resemble `wrong`, and the known names."""
    import difflib

    known = sorted(set(known))
    lowered = {name.lower(): name for name in known}
    close = [lowered[name] for name in difflib.get_close_matches(str(wrong).lower(), lowered, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}?" if close else ""
    if close and len(known) > MOST_NAMES:
        return hint
    more = f", … ({len(known)} in all)" if len(known) > MOST_NAMES else ""
    return f"{hint} Known: {', '.join(known[:MOST_NAMES])}{more}".strip()
