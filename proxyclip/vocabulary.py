"""The words to look for: classes, and the several names that a class may have."""

import warnings
from dataclasses import dataclass

from proxyclip.errors import InputError, nearest

SEPARATOR = "; "  # the published class files split at semicolon and space, at nothing else


@dataclass(frozen=True)
class Vocabulary:
    """K classes and their Q >= K queries, in the order given.

    `classes` are the names as given ("car; truck"), `queries` the single names ("car", "truck"), `class_of_query`
    the index of each query's class.
    """

    classes: tuple[str, ...]
    queries: tuple[str, ...]
    class_of_query: tuple[int, ...]

    @classmethod
    def parse(cls, classes) -> "Vocabulary":
        """From a list of names; each may hold several, separated by "; ". Raises InputError for unusable ones."""
        if isinstance(classes, str):
            raise InputError(f"classes must be a list of names, not the single text {classes!r}: write [{classes!r}]")
        classes = tuple(classes)
        if not classes:
            raise InputError("no classes were given; name at least one thing to look for")
        seen = {}
        for index, name in enumerate(classes):
            if not isinstance(name, str):
                raise InputError(f"class {index} is {name!r}, which is no text")
            if not all(part.strip() for part in name.split(SEPARATOR)):
                raise InputError(f"class {index} ({name!r}) has an empty name")
            if name.strip() in seen:
                raise InputError(f"class {name.strip()!r} is given twice, as number {seen[name.strip()]} and {index}")
            seen[name.strip()] = index
        return cls(classes, *split_queries(classes))

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called, for models that take names instead of queries."""
        return self.classes

    def index(self, name: str) -> int:
        """The class of that name, as given or by one of its several names."""
        if name in self.classes:
            return self.classes.index(name)
        if name in self.queries:
            return self.class_of_query[self.queries.index(name)]
        raise InputError(f"{name!r} is none of the classes; {nearest(name, self.classes)}")


def split_queries(classes) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """All names of all classes in order, and for each the index of its class; nothing is stripped."""
    pairs = [(name, index) for index, line in enumerate(classes) for name in line.split(SEPARATOR)]
    return tuple(name for name, _ in pairs), tuple(index for _, index in pairs)


def class_lines(text: str) -> list[str]:
    """The classes of a class file: one a line; a newline at the end of the last line adds none."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def warn_unknown(vocabulary: Vocabulary, known: tuple[str, ...] | None) -> None:
    """Warns of names with words that a CLIP of a small vocabulary, `known`, has never seen."""
    if known is None:
        return
    single = {word for name in known for word in name.lower().split()}
    unknown = [query for query in vocabulary.queries if not {*query.lower().split()} <= single]
    if unknown:
        warnings.warn(
            f"the embedded CLIP has never seen {', '.join(unknown)}; it knows {', '.join(known)}. "
            'For other words load a real pair, such as "vitb16-dino"',
            stacklevel=5,
        )
