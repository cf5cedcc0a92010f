"""The list of names as a person types it."""

from proxyclip.app.limits import Limits
from proxyclip.errors import InputError
from proxyclip.vocabulary import Vocabulary, shortened, split_names


def read_names(text: str, limits: Limits) -> Vocabulary:
    """Classes from text: one per line or separated by commas, the names of a class by semicolons.

    Empty lines are ignored. Raises InputError for an empty list, an invalid name, and anything beyond the limits.
    """
    longest = limits.max_names * (limits.max_letters + 2)  # with separators
    if len(text) > longest:
        raise InputError(f"the list of names has {len(text)} letters; at most {longest} are accepted")
    classes = [name.strip() for line in text.splitlines() for name in line.split(",") if name.strip()]
    if not classes:
        raise InputError("there are no names yet: write what to look for, such as sky, sea; ocean, sand")
    single = [name for text in classes for name in split_names(text)]
    if len(single) > limits.max_names:
        raise InputError(f"the list has {len(single)} names; at most {limits.max_names} are accepted")
    too_long = next((name for name in single if len(name) > limits.max_letters), None)
    if too_long is not None:
        raise InputError(
            f"the name {shortened(too_long, 30)} has {len(too_long)} letters; at most {limits.max_letters} are accepted"
        )
    return Vocabulary.parse(classes)
