"""What bad data gets: one sentence that names the file and the mend; exit code 2 from the scripts of this folder."""

import difflib
import functools
import sys


class DataError(ValueError):
    """A dataset or a configuration that is there but wrong: a bad label value, a broken file, a misspelt field."""


class DataNotFound(FileNotFoundError):
    """A dataset, a file of one, or a configuration that is not there."""


def script(main):
    """Wraps a script's `main`: bad data prints its sentence and exits with code 2, Ctrl-C with 130."""

    @functools.wraps(main)
    def guarded(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (DataError, DataNotFound) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    return guarded


def nearest(wrong: str, known) -> str:
    """`wrong`, quoted, with the names that look like it, or all of them if none does."""
    close = difflib.get_close_matches(wrong, list(known), n=3, cutoff=0.5)
    return f"{wrong!r}; {'did you mean ' + ' or '.join(close) + '?' if close else 'known: ' + ', '.join(known)}"
