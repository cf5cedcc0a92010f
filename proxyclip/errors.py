"""Errors for invalid input: one sentence, and exit code 2 in every script (see `proxyclip.runtime`)."""

MOST_NAMES = 40  # that an error lists


class InputError(ValueError):
    """An invalid value from the caller; the message says what is wrong and what to do."""


class NotFound(FileNotFoundError):
    """A file that does not exist: an image, a checkpoint, or weights that are neither cached nor reachable."""


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
