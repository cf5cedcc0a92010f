"""Class files: one class a line in label order, synonyms separated by ";"."""

import os
from pathlib import Path

from proxyclip.errors import InputError, NotFound
from proxyclip.vocabulary import class_lines, read_class_file, split_names

WORDS = Path(__file__).resolve().parent / "words"


def read_words(name: str | Path, count: int | None = None) -> tuple[str, ...]:
    """The lines of a class file, each with its synonyms separated by "; ". A bare name is one of `words/`.

    Blanks around names and line endings do not matter. Raises NotFound, and InputError for an empty or repeated line,
    and if there are not `count` of them.
    """
    path = WORDS / f"{name}.txt" if Path(name).name == str(name) and not Path(name).suffix else Path(name)
    if not os.path.exists(path):
        known = sorted(file.stem for file in WORDS.glob("*.txt"))
        raise NotFound(f"there is no class file {path}; those that come with it: {', '.join(known)}")
    words = []
    for number, line in enumerate(class_lines(read_class_file(path)), start=1):
        synonyms = split_names(line)
        if not all(synonyms):
            raise InputError(f"{path}, line {number}: an empty name")
        if (entry := "; ".join(synonyms)) in words:
            raise InputError(f"{path}, line {number}: {entry!r} is line {words.index(entry) + 1} already")
        words.append(entry)
    if not words or count not in (None, len(words)):
        raise InputError(
            f"{path} has {len(words)} lines{f' for {count} classes' if count else ': it needs one a class'}"
        )
    return tuple(words)
