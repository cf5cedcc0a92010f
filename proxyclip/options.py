"""Settings: typed fields of frozen dataclasses, checked, and parsed from FIELD=VALUE on a command line."""

import math
import reprlib
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Literal, Union, get_args, get_origin, get_type_hints

from proxyclip.errors import InputError, nearest

LARGEST = 1_000_000  # of any number: products of larger ones are not finite in the types that models compute in


def make_options(kind: type, given: Mapping, source: str):
    """`kind(**given)`; InputError for an unknown field, naming the nearest one, and for a value of the wrong type.

    source: where the options belong, for the error message: "method maskclip".
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{source} has no option {name!r}; {nearest(name, known)}")
        check_type(name, value, hints[name])
    return kind(**{name: plain(value, hints[name]) for name, value in given.items()})


def field_types(kind: type) -> dict:
    """Field -> annotation of a dataclass."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def parse_settings(settings: Sequence[str], groups: Mapping[str, Mapping], whose: str) -> dict[str, dict]:
    """Group -> field -> value, from texts such as "short_side=672", "levels=1,2,3", "threshold=none".

    groups: by name, the annotations of the fields that can be set; the first group that has a field gets it. whose: the
    owners of all fields, for the message of the InputError for an unknown one, which names the nearest.
    """
    values = {group: {} for group in groups}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"cannot set {setting!r}: write FIELD=VALUE")
        group = next((group for group, known in groups.items() if key in known), None)
        if group is None:
            known = [field for types in groups.values() for field in types]
            raise InputError(f"cannot set {setting}: no field {key!r} in {whose}; {nearest(key, known)}")
        values[group][key] = parse_option(groups[group], key, text)
    return values


def check_type(name: str, value, hint) -> None:
    """InputError unless `value` matches the annotation: floats are finite, True is not a number, and no number exceeds
    LARGEST."""
    if isinstance(value, Real) and LARGEST < abs(value) < math.inf:
        raise InputError(f"{name} is {reprlib.repr(value)}; choose a number of at most {LARGEST}")
    if not fits(value, hint):
        raise InputError(f"{name} must be {wanted(hint)}, not {value!r}")


def plain(value, hint):
    """The value in Python's own types, as JSON has them: 1 becomes 1.0 for a float, and NumPy scalars are converted."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return float(value) if hint is float or float in get_args(hint) else int(value)


def fits(value, hint) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    return isinstance(value, hint)


def wanted(hint) -> str:
    """An annotation in words."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(wanted(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple and get_args(hint)[0] is str:
        return "a tuple of strings"
    if get_origin(hint) is tuple:
        return "whole numbers, as in 1,2,3" if get_args(hint)[0] is int else "numbers, as in 0.5,2"
    names = {float: "a finite number", int: "a whole number", str: "a string", bool: "true or false"}
    return names.get(hint, "none" if hint is type(None) else getattr(hint, "__name__", str(hint)))


def parse_option(kind: type | Mapping, name: str, text: str):
    """The value of a field, parsed by the field's annotation from text such as "1.2", "1,2,3", "none" or "a {}.".

    kind: a dataclass, or a mapping from names to annotations.
    """
    hint = kind[name] if isinstance(kind, Mapping) else get_type_hints(kind)[name]
    for reading in (hint, *get_args(hint)):
        value = read_as(text, reading)
        if value is not None and fits(value, hint):
            return value
    if text.lower() == "none" and fits(None, hint):
        return None
    raise InputError(f"{name} must be {wanted(hint)}, not {text!r}")


def read_as(text: str, hint):
    """The text as a value of one type, or None if it is not of that type."""
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower())
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            return None
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        return (text,) if kind is str else tuple(read_as(part.strip(), kind) for part in text.split(","))
    if get_origin(hint) is Literal:
        return text
    return text if hint is str else None
