"""What bad input gets: one sentence, and exit code 2 from every script."""

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
    """A value from the caller that cannot be used; the message says what is wrong and what to do."""


class NotFound(FileNotFoundError):
    """A file that is not there: an image, a checkpoint, or weights that are neither cached nor reachable."""


def main_guard(main):
    """Wraps a script's `main`: bad input prints its sentence and exits with code 2, Ctrl-C with 130.

    A path that the system refuses (name too long, disk full) is bad input, too. Where the reader of the output ends
    early, as in `script | head`, the script ends silently with 141, as one that SIGPIPE ends. Characters that the
    output's encoding lacks are escaped. Anything else is a defect of ours and keeps its traceback.
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
                sys.stdout.flush()  # not at exit, where a broken pipe cannot be handled
        except BrokenPipeError:
            drop_output()
            raise SystemExit(141) from None

    return guarded


def fail(error) -> NoReturn:
    """Prints the sentence and exits with code 2."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(1)  # of several processes mostly all say the same: the first one does, and the others end
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def drop_output() -> None:
    """Sends what is still to be printed nowhere: its reader is gone, and Python would complain at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def nearest(wrong: str, known) -> str:
    """The end of an error's sentence: 'did you mean …?' where known names look like `wrong`, and the known names."""
    import difflib

    known = sorted(known)
    lowered = {name.lower(): name for name in known}
    close = [lowered[name] for name in difflib.get_close_matches(str(wrong).lower(), lowered, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}?" if close else ""
    if close and len(known) > MOST_NAMES:
        return hint
    more = f", … ({len(known)} in all)" if len(known) > MOST_NAMES else ""
    return f"{hint} Known: {', '.join(known[:MOST_NAMES])}{more}".strip()
