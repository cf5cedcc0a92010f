"""Refinements of score maps at the size of the image, one per file; the file name is the name of the refinement.

>>> model = proxyclip.load("vitb16-dino", refine="pamr")

A refinement is named by text: NAME, NAME:VALUE for one that needs a value, and NAME:FIELD=VALUE for its options, as in
"pamr", "masks:my_masks", "pamr:steps=5:dilations=8,16". To add one, add a file with

    Options: a frozen dataclass     its settings, with the values of the paper; a field without a default comes first
    Refinement: type                a `Refinement` below: Refinement(options)

Files whose names start with an underscore are shared between refinements.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from proxyclip.errors import InputError, nearest
from proxyclip.options import make_options, parse_option

if TYPE_CHECKING:
    from torch import Tensor


# The maps of some queries, computed when they are asked for: a slice of the queries -> (q, H, W) float32. The maps of
# all queries at once may not fit in memory.
Maps = Callable[[slice], "Tensor"]


class Guide(NamedTuple):
    """What a refinement knows about an image besides its scores.

    image: (3, H, W) RGB in [0, 1]: the image as the model sees it, resized to the size of the labels. name: of the
    image, without its ending, as in "a/b"; None where it has none. queries: how many maps there are. text: their text
    embeddings (queries, E), for models that have one per query.
    """

    image: Tensor
    name: str | None
    queries: int = 0
    text: Tensor | None = None


class Refinement:
    """Refined score maps from score maps at the size of the labels, before the logit scale and the softmax.

    A refinement defines `__call__`, and `settings` and `check` if it depends on files.
    """

    def __init__(self, options):
        super().__init__()
        self.options = options

    def __call__(self, maps: Maps, guide: Guide) -> Maps:
        raise NotImplementedError

    def check(self, names: Iterable[str]) -> None:
        """Raises NotFound or InputError if an image with one of these names cannot be refined."""

    def settings(self) -> dict:
        """Everything that the result depends on besides maps and image, ready for JSON."""
        options = asdict(self.options).items()
        return {"name": self.name} | {key: list(value) if isinstance(value, tuple) else value for key, value in options}

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def title(self) -> str:
        """The name for tables, with the options that are not the default: "pamr", "pamr:steps=5"."""
        changed = [field.name for field in fields(self.options) if getattr(self.options, field.name) != field.default]
        return ":".join([self.name, *(f"{name}={text(getattr(self.options, name))}" for name in changed)])


def text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
