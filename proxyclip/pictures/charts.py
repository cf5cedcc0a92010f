"""Bar charts drawn with matplotlib, without its global state, and columns of images with titles."""

import math
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from proxyclip.pictures.legend import as_image, empty_figure, font_for, font_properties, shortened, widest

BAR, TRACK, INK, FAINT, PAPER = "#366ebe", "#eaeef4", "#222228", "#7d7d87", "white"
# In pixels of an image meant for two per screen pixel: font, height of a row, margin, bar, between bar and text.
SIZE, LINE, PAD, BAR_WIDTH, BAR_HEIGHT, GAP = 20, 32, 24, 380, 21, 14
MOST_NAME, MOST_TITLE = 480, 4000  # widths; longer texts are shortened


class Bar(NamedTuple):
    """One row: its name, a value from 0 to 100 (None: no bar), and the text behind it."""

    name: str
    value: float | None
    text: str


def bar_chart(title: str, subtitle: str, bars: list[Bar]) -> Image.Image:
    """The bars below each other, in as many columns as make the image about square, under two lines of text."""
    count = len(bars)
    texts, font = font_for([title, subtitle, *(bar.name for bar in bars), *(bar.text for bar in bars)], SIZE)
    font = font.font_variant(layout_engine=ImageFont.Layout.BASIC)  # as wide as matplotlib's, letter by letter
    headings = [shortened(text, font, MOST_TITLE) for text in texts[:2]]
    names = [shortened(name, font, MOST_NAME) for name in texts[2 : 2 + count]]
    remarks = [shortened(text, font, MOST_NAME) for text in texts[2 + count :]]
    name_width, remark_width = (widest(one, font) + GAP for one in (names, remarks))
    column_width = name_width + BAR_WIDTH + remark_width + 2 * PAD
    columns = max(1, round(math.sqrt(count * LINE / column_width)))
    rows = max(1, math.ceil(count / columns))
    width = max(columns * column_width, widest(headings, font) + 2 * PAD)
    top = 2 * LINE + 2 * PAD
    height = top + rows * LINE + PAD

    figure = empty_figure(width, height)
    for line, (text, colour) in enumerate(zip(headings, (INK, FAINT), strict=True)):
        y = 1 - (PAD + line * LINE) / height
        figure.text(PAD / width, y, text, va="top", color=colour, font=font_properties(font), parse_math=False)
    for column in range(columns):
        part = slice(column * rows, (column + 1) * rows)
        left = column * column_width + PAD + name_width
        axes = figure.add_axes((left / width, PAD / height, BAR_WIDTH / width, rows * LINE / height))
        draw_bars(axes, bars[part], names[part], remarks[part], rows, font_properties(font))
    return as_image(figure)


def draw_bars(axes, bars: list[Bar], names: list[str], remarks: list[str], rows: int, font) -> None:
    """One column, with room for `rows` bars."""
    text = {"va": "center_baseline", "font": font, "parse_math": False}  # a $ in a name is a $
    gap = 100 * GAP / BAR_WIDTH  # in the unit of the values
    axes.hlines(range(len(bars)), 0, 100, TRACK, linewidth=BAR_HEIGHT)
    axes.hlines(range(len(bars)), 0, [bar.value or 0 for bar in bars], BAR, linewidth=BAR_HEIGHT)
    for row, (name, remark) in enumerate(zip(names, remarks, strict=True)):
        axes.text(-gap, row, name, ha="right", color=INK, **text)
        axes.text(100 + gap, row, remark, ha="left", color=FAINT, **text)
    axes.set(xlim=(0, 100), ylim=(rows - 0.5, -0.5))
    axes.set_axis_off()


def stack(images: list[tuple[str, Image.Image]], most_width: int = 1500) -> Image.Image:
    """Images below each other, each under its title and at most `most_width` wide, with a margin around all."""
    images = [(title, narrowed(image, most_width)) for title, image in images]
    titles, font = font_for([title for title, _ in images], SIZE)
    titles = [shortened(title, font, MOST_TITLE) for title in titles]
    width = math.ceil(max([*map(font.getlength, titles), *(image.width for _, image in images)]))
    sheet = Image.new("RGB", (width + 2 * PAD, sum(2 * LINE + image.height for _, image in images) + 2 * PAD), PAPER)
    draw, top = ImageDraw.Draw(sheet), PAD
    for title, (_, image) in zip(titles, images, strict=True):
        draw.text((PAD, top + LINE // 2), title, INK, font, anchor="lm")
        sheet.paste(image, (PAD, top + LINE))
        top += 2 * LINE + image.height
    return sheet


def narrowed(image: Image.Image, width: int) -> Image.Image:
    """The image, reduced if it is wider."""
    if image.width <= width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


WIDTH, HEIGHT = 900, 560  # pixels
COLOURS = ("#366ebe", "#d97b29", "#3d9a5b", "#b3477f", "#7d7d87", "#8a6d3b")
INK, FAINT = "#222228", "#eaeef4"


def curve_chart(title: str, lines: dict[str, tuple], x_label: str, y_label: str) -> Image.Image:
    """lines: name -> x values, y values, and the index of the point to mark."""
    figure = empty_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.77))
    for (name, (x, y, best)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        label = f"{name}: {y[best]:.1f} at {x[best]:.2f}"
        axes.plot(x, y, color=colour, linewidth=2.5, label=label)
        axes.plot(x[best], y[best], "o", color=colour, markersize=10)
    axes.set_title(title, fontsize=18, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(x_label, fontsize=15, color=INK)
    axes.set_ylabel(y_label, fontsize=15, color=INK)
    axes.tick_params(labelsize=13)
    axes.grid(color=FAINT, linewidth=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=14, frameon=False, loc="best")
    axes.set_xlim(left=0)
    return as_image(figure)
