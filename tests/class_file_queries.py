"""The queries of a published class file as its own code splits them."""

from proxyclip.vocabulary import SEPARATOR


def split_queries(lines) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """All names of a published class file in order, and the index of the class of each; nothing is stripped."""
    pairs = [(name, index) for index, line in enumerate(lines) for name in line.split(SEPARATOR)]
    return tuple(name for name, _ in pairs), tuple(index for _, index in pairs)
