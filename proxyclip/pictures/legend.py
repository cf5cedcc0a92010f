"""Words beside a picture: which colour is what, and a line of text above it.

Everything is measured in units of the font size, which follows the size of the picture.
"""

import math
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, AMBER = (255, 255, 255), (34, 34, 40), (125, 125, 135), (255, 214, 102)
NARROWEST = 24  # font sizes; a picture slimmer than this gets white beside it, so that words fit
MOST_ENTRIES = 60
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")


def font_size(height: int, width: int) -> int:
    return max(13, round(math.sqrt(height * width) / 36))


def letters(texts: list[str], size: int) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """The texts and a font that has their letters.

    Pillow's own font looks the same on every machine but knows ASCII only. Other letters take a font of the system;
    where there is none, accents are dropped.
    """
    if not all(text.isascii() for text in texts):
        for name in SYSTEM_FONTS:
            try:
                return texts, ImageFont.truetype(name, size)
            except OSError:
                continue
        texts = [unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?" for text in texts]
    return texts, ImageFont.load_default(size)


def with_legend(picture: Image.Image, entries: list[tuple[str, float, np.ndarray]]) -> Image.Image:
    """The picture with its (name, share, colour) entries, below it if it is wider than high, else beside it.

    Entries come in the order given, in as many columns as fit; those for which there is no room are counted in a last
    line "+ N more".
    """
    size = font_size(picture.height, picture.width)
    below = picture.width >= picture.height
    line, pad, gap = round(1.6 * size), size, 2 * size
    if below:
        room, most_rows = max(picture.width, NARROWEST * size) - 2 * pad, max(4, round(0.6 * picture.height) // line)
    else:
        room, most_rows = max(picture.width, 16 * size), max(4, (picture.height - 2 * pad) // line)

    names, font = letters([name for name, _, _ in entries[:MOST_ENTRIES]], size)
    shares = [percent(share) for _, share, _ in entries[:MOST_ENTRIES]]
    share_width = max(map(font.getlength, shares)) + 0.8 * size
    names = [shortened(name, font, min(room, 20 * size) - 2 * size - share_width) for name in names]
    cell = math.ceil(max(2 * size + max(map(font.getlength, names)) + share_width, 6 * size))
    most_columns = max(1, (room + gap) // (cell + gap))
    shown = len(entries)
    if shown > min(most_rows * most_columns, MOST_ENTRIES):
        shown = min(most_rows * most_columns - 1, MOST_ENTRIES)
    lines = shown + (shown < len(entries))
    rows = math.ceil(lines / most_columns) if below else min(lines, most_rows)
    columns = math.ceil(lines / rows)
    step = max((room + gap) // columns if below else 0, cell + gap)

    legend = Image.new("RGB", (columns * step - gap + 2 * pad, rows * line + 2 * pad), PAPER)
    draw = ImageDraw.Draw(legend)
    for place in range(lines):
        x, y = pad + place // rows * step, pad + place % rows * line + line // 2
        if place == shown:
            draw.text((x, y), f"+ {len(entries) - shown} more", FAINT, font, anchor="lm")
            break
        swatch = (x, y - round(0.55 * size), x + round(1.3 * size), y + round(0.55 * size))
        draw.rounded_rectangle(swatch, round(0.25 * size), tuple(entries[place][2].tolist()))
        draw.text((x + 2 * size, y), names[place], INK, font, anchor="lm")
        draw.text((x + cell, y), shares[place], FAINT, font, anchor="rm")
    return joined(picture, legend, below)


def with_note(picture: Image.Image, note: str, paper: tuple[int, int, int] = AMBER) -> Image.Image:
    """The picture under a strip of one colour with a line of text, broken into several where it is too long."""
    size = font_size(picture.height, picture.width)
    (note,), font = letters([note], size)
    width = max(picture.width, NARROWEST * size)
    lines = [""]
    for word in note.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width - 2 * size:
            lines[-1] = longer
        else:
            lines.append(word)
    strip = Image.new("RGB", (width, round((1.4 * len(lines) + 0.8) * size)), paper)
    draw = ImageDraw.Draw(strip)
    for row, words in enumerate(lines):
        draw.text((size, round((1.4 * row + 1.1) * size)), words, INK, font, anchor="lm")
    return joined(strip, picture, below=True)


def joined(first: Image.Image, second: Image.Image, below: bool = True) -> Image.Image:
    """Two pictures, the second below the first or to its right, on white paper."""
    corner = (0, first.height) if below else (first.width, 0)
    size = max(first.width, corner[0] + second.width), max(first.height, corner[1] + second.height)
    sheet = Image.new("RGB", size, PAPER)
    sheet.paste(first, (0, 0))
    sheet.paste(second, corner)
    return sheet


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def shortened(name: str, font, length: float) -> str:
    """The name, cut with … where it is longer than `length` pixels."""
    if font.getlength(name) <= length:
        return name
    while name and font.getlength(name + "…") > length:
        name = name[:-1]
    return name.rstrip() + "…"
