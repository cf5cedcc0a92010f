"""One training-free method a file; the file's name is the method's name. To add one, add a file. It has

    Options: a frozen dataclass     its own settings on top of `_training_free.Options`, with the paper's values
    NEEDS_VFM: bool                 whether it looks at a vision foundation model as well
    Method: type                    the `Segmentor`: Method(clip, vfm, options)

Files whose name starts with an underscore are parts that methods share.
"""

import importlib
import pkgutil

from proxyclip.errors import InputError, nearest


def method_names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_method(name: str):
    """The module of one method; an unknown name raises InputError with the nearest ones."""
    if name not in method_names():
        raise InputError(f"unknown method {name!r}; {nearest(name, method_names())}")
    return importlib.import_module(f"{__name__}.{name}")
