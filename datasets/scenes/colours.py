"""The colours of the synthetic scenes. They do not give classes away: most colour names apply to most classes."""

COLOURS = {
    "red": (205, 40, 40),
    "orange": (240, 135, 30),
    "yellow": (240, 215, 50),
    "green": (60, 160, 60),
    "blue": (50, 95, 210),
    "purple": (130, 60, 170),
    "pink": (240, 140, 180),
    "brown": (125, 80, 45),
    "black": (35, 35, 38),
    "white": (240, 240, 240),
    "gray": (135, 135, 140),
}
COLOUR_SYNONYMS = {"gray": ("gray", "grey"), "purple": ("purple", "violet")}

# The colours of each kind of stuff: (colour name, red, green, blue).
STUFF_PALETTES = {
    "sky": (
        ("blue", 110, 170, 235),
        ("blue", 70, 120, 210),
        ("gray", 165, 170, 178),
        ("orange", 240, 165, 95),
        ("pink", 235, 165, 185),
        ("black", 25, 30, 60),
        ("purple", 140, 110, 180),
    ),
    "sea": (
        ("blue", 40, 90, 160),
        ("green", 45, 130, 120),
        ("gray", 110, 125, 135),
        ("blue", 20, 50, 100),
        ("black", 30, 35, 50),
        ("purple", 95, 75, 140),
    ),
    "sand": (
        ("yellow", 225, 200, 140),
        ("brown", 185, 145, 95),
        ("white", 235, 225, 205),
        ("gray", 165, 155, 140),
        ("orange", 215, 150, 85),
        ("pink", 225, 165, 160),
    ),
    "grass": (
        ("green", 75, 145, 55),
        ("green", 45, 105, 45),
        ("yellow", 180, 170, 80),
        ("brown", 135, 110, 65),
        ("green", 120, 175, 80),
    ),
    "snow": (
        ("white", 235, 238, 245),
        ("white", 215, 225, 240),
        ("blue", 180, 200, 230),
        ("gray", 190, 192, 198),
        ("pink", 235, 210, 215),
    ),
    "road": (("gray", 105, 105, 110), ("black", 60, 60, 65), ("gray", 145, 143, 140), ("brown", 130, 110, 95)),
    "brick wall": (
        ("red", 165, 75, 60),
        ("gray", 140, 138, 135),
        ("white", 220, 215, 205),
        ("brown", 130, 95, 70),
        ("yellow", 205, 175, 110),
        ("blue", 95, 120, 165),
    ),
    "wooden floor": (
        ("brown", 140, 95, 55),
        ("yellow", 205, 165, 105),
        ("gray", 150, 140, 130),
        ("red", 150, 75, 50),
        ("black", 75, 55, 45),
    ),
    "mountain": (
        ("gray", 120, 120, 125),
        ("brown", 125, 100, 80),
        ("blue", 95, 115, 155),
        ("purple", 115, 95, 140),
        ("green", 80, 110, 80),
    ),
}

# The colours of things that do not come in every colour.
THING_PALETTES = {
    "sun": ("yellow", "orange", "red", "white"),
    "cloud": ("white", "gray", "pink", "black"),
    "tree": ("green", "green", "orange", "yellow", "pink", "red"),
    "mushroom": ("red", "brown", "orange", "white", "purple", "yellow"),
    "bird": ("red", "blue", "black", "white", "yellow", "brown", "gray"),
}

# Parts of things that keep their colour.
DARK, LIGHT, GLASS, WOOD, LEAF = (35, 35, 40), (245, 245, 240), (195, 222, 242), (112, 76, 46), (60, 130, 55)
