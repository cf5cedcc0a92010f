"""What bad input gets: one sentence, and exit code 2 from every script."""

import functools
import os
import sys
import time

MOST_NAMES = 40  # that an error lists


class InputError(ValueError):
    """A value from the caller that cannot be used; the message says what is wrong and how to mend it."""


class NotFound(FileNotFoundError):
    """A file that is not there: an image, a checkpoint, or weights that are neither cached nor reachable."""


def main_guard(main):
    """Wraps a script's `main`: bad input prints its sentence and exits with code 2, Ctrl-C with 130.

    Anything else is a defect of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (InputError, NotFound) as error:
            if int(os.environ.get("LOCAL_RANK", 0)):
                time.sleep(1)  # of several processes mostly all say the same: the first one does, and the others end
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    return guarded


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
