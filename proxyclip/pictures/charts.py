"""Bar charts as PNG pictures, drawn with Pillow alone."""

import math
from typing import NamedTuple

from PIL import Image, ImageDraw

from proxyclip.pictures.legend import FAINT, INK, PAPER, letters, shortened

BAR, TRACK = (54, 110, 190), (234, 238, 244)
# In pixels of a picture meant for two per screen pixel: font, height of a row, margin, bar, space between columns.
SIZE, LINE, PAD, BAR_WIDTH, GAP = 20, 32, 24, 380, 50
MOST_NAME = 480  # width of a name; longer ones are shortened


class Bar(NamedTuple):
    """One row: its name, a value from 0 to 100 (None: no bar), and what is written behind it."""

    name: str
    value: float | None
    text: str


def bar_chart(title: str, subtitle: str, bars: list[Bar]) -> Image.Image:
    """The bars below each other, in as many columns as make the picture about square, under two lines of text."""
    (title, subtitle, *names), font = letters([title, subtitle, *(bar.name for bar in bars)], SIZE)
    name_width = math.ceil(min(MOST_NAME, max(map(font.getlength, names), default=0))) + 14
    step = name_width + BAR_WIDTH + 14 + math.ceil(max((font.getlength(bar.text) for bar in bars), default=0)) + GAP
    columns = max(1, round(math.sqrt(len(bars) * LINE / step)))
    rows = math.ceil(len(bars) / columns)
    heading = math.ceil(max(map(font.getlength, (title, subtitle))))
    width = max(columns * step - GAP, heading) + 2 * PAD
    sheet = Image.new("RGB", (width, rows * LINE + 2 * LINE + 3 * PAD), PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, (text, colour) in enumerate(((title, INK), (subtitle, FAINT))):
        draw.text((PAD, PAD + line * LINE + LINE // 2), text, colour, font, anchor="lm")
    for place, (bar, name) in enumerate(zip(bars, names, strict=True)):
        start, middle = PAD + place // rows * step + name_width, 2 * PAD + 2 * LINE + place % rows * LINE + LINE // 2
        draw.text((start - 14, middle), shortened(name, font, MOST_NAME), INK, font, "rm")
        top, bottom = middle - LINE // 3, middle + LINE // 3
        draw.rectangle((start, top, start + BAR_WIDTH, bottom), TRACK)
        if bar.value:
            draw.rectangle((start, top, start + round(BAR_WIDTH * bar.value / 100), bottom), BAR)
        draw.text((start + BAR_WIDTH + 14, middle), bar.text, FAINT, font, anchor="lm")
    return sheet


def stack(pictures: list[tuple[str, Image.Image]], most_width: int = 1500) -> Image.Image:
    """Pictures below each other, each under its title and at most `most_width` wide."""
    pictures = [(title, narrowed(picture, most_width)) for title, picture in pictures]
    titles, font = letters([title for title, _ in pictures], SIZE)
    width = math.ceil(max([*map(font.getlength, titles), *(picture.width for _, picture in pictures)]))
    sheet = Image.new("RGB", (width + 2 * PAD, sum(2 * LINE + p.height for _, p in pictures) + 2 * PAD), PAPER)
    draw, top = ImageDraw.Draw(sheet), PAD
    for title, (_, picture) in zip(titles, pictures, strict=True):
        draw.text((PAD, top + LINE // 2), title, INK, font, anchor="lm")
        sheet.paste(picture, (PAD, top + LINE))
        top += 2 * LINE + picture.height
    return sheet


def narrowed(picture: Image.Image, width: int) -> Image.Image:
    """The picture, reduced if it is wider."""
    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
