"""The vocabulary of the synthetic scenes: classes, their synonyms, and captions made of them."""

from datasets.scenes.textures import COLOUR_SYNONYMS

STUFF = ("sky", "sea", "sand", "grass", "snow", "road", "brick wall", "wooden floor", "mountain")
THINGS = (
    "sun",
    "cloud",
    "tree",
    "house",
    "car",
    "boat",
    "ball",
    "fish",
    "bird",
    "flower",
    "mushroom",
    "star",
    "balloon",
    "umbrella",
    "cup",
)
CLASSES = STUFF + THINGS

# Zero-shot segmentation: heads train on the labels of the seen classes and are tested on all.
UNSEEN = ("snow", "road", "boat", "fish", "mushroom", "umbrella", "cloud")
SEEN = tuple(name for name in CLASSES if name not in UNSEEN)

SYNONYMS = {
    "sky": ("sky", "skies"),
    "sea": ("sea", "ocean", "water"),
    "sand": ("sand", "beach", "sandy beach"),
    "grass": ("grass", "lawn", "meadow"),
    "snow": ("snow", "snowy ground"),
    "road": ("road", "street", "asphalt road"),
    "brick wall": ("brick wall", "wall of bricks", "wall"),
    "wooden floor": ("wooden floor", "floor", "wood planks"),
    "mountain": ("mountain", "mountains", "hill"),
    "sun": ("sun",),
    "cloud": ("cloud", "clouds"),
    "tree": ("tree", "trees"),
    "house": ("house", "home", "cottage"),
    "car": ("car", "automobile", "vehicle"),
    "boat": ("boat", "sailboat", "ship"),
    "ball": ("ball", "toy ball"),
    "fish": ("fish",),
    "bird": ("bird",),
    "flower": ("flower", "blossom"),
    "mushroom": ("mushroom", "toadstool"),
    "star": ("star",),
    "balloon": ("balloon",),
    "umbrella": ("umbrella", "parasol"),
    "cup": ("cup", "mug"),
}

OPENINGS = ("a photo of ", "a picture of ", "an image of ", "a drawing of ", "there is ", "a scene with ", "")
UNCOUNTED = (
    "sky",
    "skies",
    "sea",
    "water",
    "sand",
    "grass",
    "snow",
    "snowy ground",
    "clouds",
    "trees",
    "mountains",
    "wood planks",
)


def name_of(class_name, dice):
    """One of the names of a class; half of the time the first one."""
    names = SYNONYMS[class_name]
    return names[0] if dice.chance(0.5) else dice.pick(names)


def phrase(class_name, colour, dice):
    """A name of the class after a name of the colour: "grey toadstool"."""
    return f"{dice.pick(COLOUR_SYNONYMS.get(colour, (colour,)))} {name_of(class_name, dice)}"


def caption(parts, dice):
    """A sentence that names every part of an image.

    parts: (class name, colour name) pairs, most visible first. dice: a `scenes.Dice`. Returns text such as
    "a photo of a red car on the street under the sky".
    """
    if not parts:
        return "a photo"
    things = [part for part in parts if part[0] in THINGS]
    stuff = [part for part in parts if part[0] in STUFF]
    phrases = [
        _with_article(phrase(*part, dice) if dice.chance(0.6) else name_of(part[0], dice), dice)
        for part in things + stuff
    ]
    opening = dice.pick(OPENINGS)
    if len(things) == 1 and stuff and dice.chance(0.5):
        joints = [dice.pick((" on ", " in front of ", " with "))]
        joints += [dice.pick((" under ", " and ", " near ")) for _ in phrases[2:]]
        return opening + phrases[0] + "".join(joint + text for joint, text in zip(joints, phrases[1:], strict=True))
    phrases = dice.shuffled(phrases)
    return opening + (", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0])


def _with_article(text, dice):
    if dice.chance(0.25):
        return "the " + text
    if text.endswith(UNCOUNTED):
        return text
    return ("an " if text[0] in "aeiou" else "a ") + text
