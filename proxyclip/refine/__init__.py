"""Refinements of score maps at the size of the image, one per file; the file name is the name of the refinement.

>>> model = proxyclip.load("vitb16-dino", refine="pamr")

A refinement is named by text: NAME, NAME:VALUE for one that needs a value, and NAME:FIELD=VALUE for its options, as in
"pamr", "masks:my_masks", "pamr:steps=5:dilations=8,16". To add one, add a file with

    Options: a frozen dataclass     its settings, with the values of the paper; a field without a default comes first
    Refinement: type                a `_refinement.Refinement`: Refinement(options)

Files whose names start with an underscore are shared between refinements.
"""

import importlib
import pkgutil
import re
from dataclasses import MISSING, dataclass, fields
from types import ModuleType
from typing import Any

from proxyclip.errors import InputError, nearest
from proxyclip.options import make_options, parse_option


@dataclass(frozen=True)
class Choice:
    """A refinement that is checked as far as possible without loading weights."""

    module: ModuleType
    options: Any

    def build(self):
        return self.module.Refinement(self.options)


def refinement_names() -> list[str]:
    """The names of all refinements, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_refinement(name: str) -> ModuleType:
    """The module of one refinement; InputError with the nearest names for an unknown one."""
    if name not in refinement_names():
        raise InputError(f"unknown refinement {name!r}; {nearest(name, [*refinement_names(), 'none'])}")
    return importlib.import_module(f"{__name__}.{name}")


def read_refinement(text: str | None) -> Choice | None:
    """The refinement that a text such as "pamr:steps=5" or "masks:FOLDER" names; None for None and for "none".

    Raises InputError for an unknown name or option and for an invalid value, and NotFound for a missing file or folder.
    """
    if text is None or text == "none":
        return None
    if not isinstance(text, str):
        raise InputError(f'refine must be text such as "pamr" or "masks:FOLDER", not {text!r}')
    name, colon, rest = text.partition(":")
    module = find_refinement(name)
    known = [field.name for field in fields(module.Options)]
    given = {}
    for place, part in enumerate(re.split(r":(?=[a-z_]+=)", rest) if colon else ()):
        key, equals, value = part.partition("=")
        if place == 0 and key not in known and needed(module.Options):
            key, value = needed(module.Options)[0], part
        elif not equals:
            raise InputError(f"refine={text}: write {name}:FIELD=VALUE; the options are {', '.join(known)}")
        elif key not in known:
            raise InputError(f"refine={text}: {name} has no option {key!r}; {nearest(key, known)}")
        given[key] = parse_option(module.Options, key, value)
    for field in needed(module.Options):
        if not given.get(field):
            raise InputError(f"refine={text}: name the {field}, as in {name}:{field.upper()}")
    return Choice(module, make_options(module.Options, given, f"refinement {name}"))


def needed(kind: type) -> list[str]:
    """The fields without a default."""
    return [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
