"""Export formats, one per file; the file name is the name of the format, "-" for "_". To add one, add a file with

    Format: a frozen dataclass      `_format.BaseFormat` with FOLDER, SUFFIX and `encode`, and `gather` where the format
                                    has files for the whole job

Files whose names start with an underscore are shared between formats.
"""

import importlib
import pkgutil

from proxyclip.errors import InputError, nearest

NO_FORMAT = {"record"}


def format_names() -> list[str]:
    """The names of all formats, sorted."""
    modules = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
    return sorted(name.replace("_", "-") for name in modules - NO_FORMAT)


def find_format(name: str, classes):
    """The format for results of these classes (names as given, in label order).

    Raises InputError with the nearest names for an unknown format, and for class names that it cannot hold.
    """
    if name not in format_names():
        raise InputError(f"unknown format {name!r}; {nearest(name, format_names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").Format(tuple(classes))
