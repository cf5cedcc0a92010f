"""Checks for the fields of a dataset: each rejects invalid values with one sentence."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from proxyclip.errors import InputError


def check_text(value, what: str) -> None:
    """InputError unless the value is a non-empty string that can be printed on one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InputError(f"{what} must be a non-empty string, not {value!r}")


def check_plain_name(value, what: str) -> None:
    """A text that can be part of a file's name."""
    check_text(value, what)
    if value in (".", "..") or "/" in value or "\\" in value:
        raise InputError(f"{what} must be a name without / or \\, not {value!r}")


def checked_names(value, what: str) -> tuple[str, ...]:
    """A tuple of names, all different."""
    if isinstance(value, str):
        raise InputError(f"{what} is a single string, {value!r}: a tuple of one name needs a comma, ({value!r},)")
    if not isinstance(value, (tuple, list)):
        raise InputError(f"{what} must be a tuple of names, not {value!r}")
    seen = set()
    for name in value:
        check_text(name, f"a name in {what}")
        if name in seen:
            raise InputError(f"{what} must be all different; {name!r} is given twice")
        seen.add(name)
    return tuple(value)


def is_whole(value, lowest: int, highest: int | None = None) -> bool:
    """Whether a value is an int, not a bool, from `lowest` to `highest`."""
    return type(value) is int and value >= lowest and (highest is None or value <= highest)


def outside(paths: Iterable[str]) -> str | None:
    """The first of some relative paths that would leave the folder it is put below; None if all stay inside."""
    return next((path for path in paths if leaves(path)), None)


def leaves(path: str) -> bool:
    pure = PurePosixPath(path.replace("\\", "/"))
    return pure.is_absolute() or ".." in pure.parts or not path.isprintable()
