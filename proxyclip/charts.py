"""Bar charts as PNG pictures, drawn with Pillow alone."""

import math
from typing import NamedTuple

from PIL import Image, ImageDraw

from proxyclip.legend import FAINT, INK, PAPER, letters, shortened

BAR, TRACK = (54, 110, 190), (234, 238, 244)
SIZE, LINE, PAD = (
    20,
    32,
    24,
)  # font size, height of a row, margin: in pixels of a picture meant for two per screen pixel
NAME_WIDTH, BAR_WIDTH, TEXT_WIDTH, GAP = 300, 380, 170, 50
MOST_ROWS = 45  # of a column; more classes take more columns


class Bar(NamedTuple):
    """One row: its name, a value from 0 to 100 (None: no bar), and what is written behind it."""

    name: str
    value: float | None
    text: str


def bar_chart(title: str, subtitle: str, bars: list[Bar]) -> Image.Image:
    """The bars below each other, in as many columns as it takes, under two lines of text."""
    columns = max(1, math.ceil(len(bars) / MOST_ROWS))
    rows = math.ceil(len(bars) / columns)
    (title, subtitle, *names), font = letters([title, subtitle, *(bar.name for bar in bars)], SIZE)
    step = NAME_WIDTH + BAR_WIDTH + TEXT_WIDTH + GAP
    sheet = Image.new("RGB", (columns * step - GAP + 2 * PAD, rows * LINE + 2 * LINE + 3 * PAD), PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, (text, colour) in enumerate(((title, INK), (subtitle, FAINT))):
        text = shortened(text, font, sheet.width - 2 * PAD)
        draw.text((PAD, PAD + line * LINE + LINE // 2), text, colour, font, anchor="lm")
    for place, bar in enumerate(bars):
        left, middle = PAD + place // rows * step, 2 * PAD + 2 * LINE + place % rows * LINE + LINE // 2
        draw.text((left + NAME_WIDTH - 14, middle), shortened(names[place], font, NAME_WIDTH - 14), INK, font, "rm")
        start, top, bottom = left + NAME_WIDTH, middle - LINE // 3, middle + LINE // 3
        draw.rectangle((start, top, start + BAR_WIDTH, bottom), TRACK)
        if bar.value:
            draw.rectangle((start, top, start + round(BAR_WIDTH * bar.value / 100), bottom), BAR)
        draw.text((start + BAR_WIDTH + 14, middle), bar.text, FAINT, font, anchor="lm")
    return sheet


def stack(pictures: list[tuple[str, Image.Image]], width: int = 1500) -> Image.Image:
    """Pictures below each other, each under its title and at most `width` wide."""
    pictures = [(title, narrowed(picture, width)) for title, picture in pictures]
    sheet = Image.new("RGB", (width + 2 * PAD, sum(2 * LINE + p.height for _, p in pictures) + 2 * PAD), PAPER)
    draw, top = ImageDraw.Draw(sheet), PAD
    for title, picture in pictures:
        (title,), font = letters([title], SIZE)
        draw.text((PAD, top + LINE // 2), title, INK, font, anchor="lm")
        sheet.paste(picture, (PAD, top + LINE))
        top += 2 * LINE + picture.height
    return sheet


def narrowed(picture: Image.Image, width: int) -> Image.Image:
    """The picture, reduced if it is wider."""
    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
