"""Class files: one class per line in label order, synonyms separated by ";"."""

import os
from pathlib import Path

from proxyclip.errors import InputError, NotFound
from proxyclip.vocabulary import class_lines, read_class_file, split_names

WORDS = Path(__file__).resolve().parent / "words"


def read_words(name: str | Path, count: int | None = None) -> tuple[str, ...]:
    """The lines of a class file, each with its synonyms separated by "; ". A name without a path is a file in `words/`.

    Whitespace around names and line endings are ignored. Raises NotFound, and InputError for an empty or repeated line
    and if there are not `count` lines.
    """
    path = WORDS / f"{name}.txt" if Path(name).name == str(name) and not Path(name).suffix else Path(name)
    if not os.path.exists(path):
        known = sorted(file.stem for file in WORDS.glob("*.txt"))
        raise NotFound(f"class file {path} does not exist; included: {', '.join(known)}")
    words = []
    for number, line in enumerate(class_lines(read_class_file(path)), start=1):
        synonyms = split_names(line)
        if not all(synonyms):
            raise InputError(f"{path}, line {number}: empty name")
        if (entry := "; ".join(synonyms)) in words:
            raise InputError(f"{path}, line {number}: {entry!r} repeats line {words.index(entry) + 1}")
        words.append(entry)
    if not words or count not in (None, len(words)):
        expected = f"expected {count}, one per class" if count else "write one class per line"
        raise InputError(f"{path} has {len(words)} lines; {expected}")
    return tuple(words)


def in_one_word(names: str) -> dict[str, str]:
    """Prompts without spaces, as some published runs write them: "traffic light, hot dog" -> {"traffic light":
    "trafficlight", "hot dog": "hotdog"}."""
    return {name: name.replace(" ", "") for name in names.split(", ")}
