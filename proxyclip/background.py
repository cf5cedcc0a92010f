"""A class for everything that is none of the names.

Without one, every pixel gets one of the given names, even where none fits.
"""

from proxyclip.errors import InputError
from proxyclip.vocabulary import SEPARATOR, Vocabulary, as_read

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
