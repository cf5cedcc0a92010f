"""Class names: lists, classes with several names, and class files.

There are two rules for separating the names of a class. User input (Python lists, --classes, .txt files) is split at
every semicolon, and whitespace around names is removed: "car;truck" and "car; truck" both contain two names. Published
class files are split at semicolon and space only, and nothing is stripped.
"""

import reprlib
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

from proxyclip.errors import InputError, NotFound, nearest

SEPARATOR = "; "  # between the names of a class in published class files, and wherever names are joined


@dataclass(frozen=True)
class Vocabulary:
    """K classes and their Q >= K queries, in the order given.

    classes: the K classes as given ("car; truck"). queries: the Q single names ("car", "truck"). class_of_query: the
    index of each query's class. names: the K names of the classes themselves, where the classes hold other words to
    ask with ("boat" asked for as "ship"); the classes unless given. lists: the indices of classes that are a list of
    different things, such as a background, rather than one thing with several names.
    """

    classes: tuple[str, ...]
    queries: tuple[str, ...]
    class_of_query: tuple[int, ...]
    names: tuple[str, ...]
    lists: tuple[int, ...] = ()

    @classmethod
    def parse(cls, classes, names=None, lists=()) -> "Vocabulary":
        """From a list of classes, each with one name or several, "car; truck" (with or without the space).

        lists: those of the names that are lists of different things.
        Raises InputError for anything but a list of usable, different names. Warns if two classes share a name: its
        pixels all go to the first one.
        """
        if isinstance(classes, cls):
            return classes
        classes = list_of_names(classes, "classes")
        if not classes:
            raise InputError("no classes were given; name at least one thing to look for")
        pairs = [(name, index) for index, text in enumerate(classes) for name in split_names(text)]
        check_names(classes, pairs)
        names = classes if names is None else list_of_names(names, "names")
        if len(names) != len(classes):
            raise InputError(f"{len(names)} names were given for {len(classes)} classes; give one for each")
        return cls(classes, *zip(*pairs, strict=True), names, tuple(map(names.index, lists)))

    @property
    def name_queries(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The queries of models that use the names of the classes, and the index of the class of each: one name a
        class, and all single names of a class that is a list."""
        pairs = [(name, index) for index, name in enumerate(self.names) if index not in self.lists]
        pairs += [pair for pair in zip(self.queries, self.class_of_query, strict=True) if pair[1] in self.lists]
        return tuple(zip(*sorted(pairs, key=lambda pair: pair[1]), strict=True))  # in the order of the classes

    def index(self, name: str) -> int:
        """The class of that name: the class as given, its own name, or one of its several names."""
        for known, index in (
            *zip(self.classes, range(len(self.classes)), strict=True),
            *zip(self.names, range(len(self.names)), strict=True),
            *zip(self.queries, self.class_of_query, strict=True),
        ):
            if name == known:
                return index
        raise InputError(f"{reprlib.repr(name)} is none of the classes; {nearest(name, self.classes)}")


def list_of_names(names, what: str) -> tuple[str, ...]:
    """A list, tuple, array or any other ordered collection of strings, as a tuple of str.

    Raises InputError for a single string (a forgotten comma turns ("sky",) into "sky", which would be three names of
    one letter), bytes, a dict or a set (no order), and for entries that are not strings. `what` is the name of the
    argument.
    """
    if isinstance(names, str):
        given = shortened(names)
        raise InputError(f"{what} must be a list of names, not the single string {given}: write [{given}]")
    not_a_list = InputError(f"{what} must be a list of names, not {reprlib.repr(names)}")
    if isinstance(names, (bytes, dict, set, frozenset)):
        raise not_a_list
    try:
        names = tuple(names)
    except TypeError:  # not iterable; a NumPy array without dimensions says so only when it is tried
        raise not_a_list from None
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"{what}: entry {index} is {reprlib.repr(name)}, not a string")
    return names if {*map(type, names)} <= {str} else tuple(map(str, names))  # NumPy's own texts become plain ones


def split_names(text: str) -> tuple[str, ...]:
    """The names of one class in user input: separated by semicolons, without surrounding whitespace."""
    return tuple(name.strip() for name in text.split(";"))


def check_names(classes: tuple[str, ...], pairs: list[tuple[str, int]]) -> None:
    """InputError for an invalid or repeated name; a warning if two classes share a name."""
    first = {}
    for name, index in pairs:
        if problem := problem_with(name):
            raise InputError(f"class {index} ({shortened(classes[index])}) has {problem}")
        reading = as_read(name)
        if reading not in first:
            first[reading] = index
            continue
        other = first[reading]
        if other == index:
            raise InputError(f"class {index} ({shortened(classes[index])}) contains the name {name!r} twice")
        both = f"classes {other} ({shortened(classes[other])}) and {index} ({shortened(classes[index])})"
        if classes[other].strip() == classes[index].strip():
            raise InputError(f"class {shortened(classes[index].strip())} is given twice, as number {other} and {index}")
        if readings(classes[other]) == readings(classes[index]):
            raise InputError(f"{both} are the same to CLIP; give each class once")
        warnings.warn(f"{both} share the name {name!r}: class {other} gets all its pixels", stacklevel=3)


def problem_with(name: str) -> str | None:
    """Why a name is invalid, or None."""
    if not name.strip():
        return "an empty name"
    if not name.isprintable():
        for character in name:
            if unicodedata.category(character) in ("Cc", "Cs"):  # control characters, halves of surrogate pairs
                return f"a name with the control character {character!r}; remove it"
    if not any(map(str.isalnum, name)) and all(unicodedata.category(character)[0] in "PZ" for character in name):
        return f"the name {name!r}, which has no letter, digit or symbol"
    return None


def readings(text: str) -> set[str]:
    """The names of a class as CLIP reads them."""
    return {as_read(name) for name in split_names(text)}


def as_read(name: str) -> str:
    """What CLIP's tokenizer makes of a name: composed characters, lower case, single blanks."""
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


def shortened(text: str, length: int = 60) -> str:
    """The text in quotes, for messages."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def parse_classes_argument(given: str) -> list[str]:
    """The classes of a --classes argument: separated by commas, or one per line of a .txt file.

    Empty lines at the end of the file are ignored. Raises NotFound, InputError.
    """
    if not given.lower().endswith(".txt"):
        return [name.strip() for name in given.split(",")]
    return class_lines(read_class_file(given).rstrip())


def read_class_file(path: str | Path) -> str:
    """The text of a class file, without a byte-order mark; NotFound, or InputError if it is not UTF-8."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"class file {path} is not a regular file")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"class file {path} is not UTF-8 text: save it as UTF-8, one class per line") from None
    except FileNotFoundError:
        raise NotFound(f"class file {path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read class file {path}: {error.strerror}") from None


def class_lines(text: str) -> list[str]:
    """The classes of a class file, one per line; a final newline adds none."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def warn_unknown(vocabulary: Vocabulary, known: tuple[str, ...] | None) -> None:
    """Warns about words that a CLIP with the small vocabulary `known` was not trained on."""
    if known is None:
        return
    single = {word for name in known for word in name.lower().split()}
    unknown = [query for query in vocabulary.queries if not {*query.lower().split()} <= single]
    if unknown:
        warnings.warn(
            f"the embedded CLIP was not trained on {', '.join(unknown)}; it knows {', '.join(known)}. "
            'For other words, load a published pair such as "vitb16-dino"',
            stacklevel=5,
        )


BACKGROUNDS = ("none", "threshold", "vocabulary")
NAME = "background"
THRESHOLD = 0.25  # of background "threshold" unless another one is given; `calibrate.py` finds a better one for a model
# What ProxyCLIP's published run on Pascal VOC asks for in place of "background"; that on COCO-Object asks for some.
WORDS = (
    *("sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building"),
    *("cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail"),
    "fence",
)


def with_background(
    classes, background: str = "none", threshold: float | None = None
) -> tuple[Vocabulary, float | None]:
    """The classes with a background as class 0, and the threshold below which pixels belong to it.

    classes: names or a Vocabulary. background: "none": the classes as they are. "threshold": the word "background", and
    all pixels whose winning score is below `threshold` (default: THRESHOLD; None is returned for the other two unless
    one is given). "vocabulary": a list of things that count as background, WORDS without those that are among the
    classes, and all pixels below the threshold if one is given.

    Raises InputError for a threshold without a background, and for classes that have a background of their own.
    """
    vocabulary = Vocabulary.parse(classes)
    if background not in BACKGROUNDS:
        raise InputError(f"background is {background!r}; choose one of {', '.join(BACKGROUNDS)}")
    if background == "none":
        if threshold is not None:
            raise InputError(
                "a threshold needs a background: choose background threshold or vocabulary, or leave it out"
            )
        return vocabulary, None
    own = {as_read(name) for name in (*vocabulary.queries, *vocabulary.names)}
    if NAME in own:
        raise InputError(f'the classes contain "{NAME}", which background={background} adds: leave one of them out')
    if background == "threshold":
        words, lists, threshold = (NAME,), (), THRESHOLD if threshold is None else threshold
    else:
        lists = (NAME,)
        words = tuple(word for word in WORDS if not {word, f"{word}s", word.removesuffix("s")} & own)
        if not words:
            raise InputError("the classes contain all words for the background: choose background=threshold")
    classes, names = (SEPARATOR.join(words), *vocabulary.classes), (NAME, *vocabulary.names)
    lists += tuple(vocabulary.names[index] for index in vocabulary.lists)
    return Vocabulary.parse(classes, names, lists), threshold
