"""Training-free methods, one per file; the file name is the name of the method. To add one, add a file with

    Options: a frozen dataclass     its own settings on top of `_training_free.Options`, with the values of the paper
    NEEDS_VFM: bool                 whether it uses a vision foundation model
    Method: type                    the `Segmentor`: Method(clip, vfm, options)

Files whose names start with an underscore are shared between methods.
"""

import importlib
import pkgutil

from proxyclip.errors import InputError, nearest


def method_names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_method(name: str):
    """The module of one method; InputError with the nearest names for an unknown one."""
    if name not in method_names():
        raise InputError(f"unknown method {name!r}; {nearest(name, method_names())}")
    return importlib.import_module(f"{__name__}.{name}")
