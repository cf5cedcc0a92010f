"""Class files: one class a line in label order, synonyms separated by ";"."""

from pathlib import Path

from proxyclip.errors import InputError, NotFound

WORDS = Path(__file__).resolve().parent / "words"


def read_words(name: str | Path, count: int | None = None) -> tuple[str, ...]:
    """The lines of a class file, each with its synonyms separated by "; ". A bare name is one of `words/`.

    Blanks around names and line endings do not matter. Raises InputError for an empty or repeated line, and if there
    are not `count` of them; NotFound.
    """
    path = WORDS / f"{name}.txt" if Path(name).name == str(name) and not Path(name).suffix else Path(name)
    if not path.is_file():
        known = sorted(file.stem for file in WORDS.glob("*.txt"))
        raise NotFound(f"there is no class file {path}; those that come with it: {', '.join(known)}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8") from None
    words = []
    for number, line in enumerate(lines, start=1):
        synonyms = [word.strip() for word in line.split(";")]
        if not all(synonyms):
            raise InputError(f"{path}, line {number}: an empty name")
        if (entry := "; ".join(synonyms)) in words:
            raise InputError(f"{path}, line {number}: {entry!r} is line {words.index(entry) + 1} already")
        words.append(entry)
    if not words or count not in (None, len(words)):
        raise InputError(f"{path} has {len(words)} lines{f' for {count} classes' if count else ', which is none'}")
    return tuple(words)
