"""Text around an image: a colour legend, and a caption above it.

All sizes are in units of the font size, which depends on the size of the image.
"""

import math
from bisect import bisect_right
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, AMBER = (255, 255, 255), (34, 34, 40), (125, 125, 135), (255, 214, 102)
NARROWEST = 24  # font sizes; a narrower image is widened with white, so that a line of text fits
MOST_ENTRIES = 60


def font_size(height: int, width: int) -> int:
    """Pixels, for text around an image of that size."""
    return max(13, round(math.sqrt(height * width) / 36))


def with_legend(image: Image.Image, entries: list[tuple[str, float | None, np.ndarray]], size: int = 0) -> Image.Image:
    """The image with a legend, below it if it is wider than high, else to its right.

    entries: name, share of the pixels (None: not listed) and colour (3,) of each class, in the order given, in as many
    columns as fit. Those for which there is no room are counted in a last line, "+ N more". size: of the font, in
    pixels (default: by the size of the image).
    """
    size = size or font_size(image.height, image.width)
    below = image.width >= image.height
    line, pad, gap = round(1.6 * size), size, 2 * size
    if below:
        room, most_rows = max(image.width, NARROWEST * size) - 2 * pad, max(4, round(0.6 * image.height) // line)
    else:
        room, most_rows = max(image.width, 16 * size), max(4, (image.height - 2 * pad) // line)

    names, font = font_for([name for name, _, _ in entries[:MOST_ENTRIES]], size)
    shares = ["" if share is None else percent(share) for _, share, _ in entries[:MOST_ENTRIES]]
    share_width = max(map(font.getlength, shares)) + 0.8 * size
    names = [shortened(name, font, min(room, 20 * size) - 2 * size - share_width) for name in names]
    column = math.ceil(max(2 * size + max(map(font.getlength, names)) + share_width, 6 * size))
    most_columns = max(1, (room + gap) // (column + gap))
    listed = len(entries)
    if listed > min(most_rows * most_columns, MOST_ENTRIES):
        listed = min(most_rows * most_columns - 1, MOST_ENTRIES)
    lines = listed + (listed < len(entries))
    rows = math.ceil(lines / most_columns) if below else min(lines, most_rows)
    columns = math.ceil(lines / rows)
    step = max((room + gap) // columns if below else 0, column + gap)

    legend = Image.new("RGB", (columns * step - gap + 2 * pad, rows * line + 2 * pad), PAPER)
    draw = ImageDraw.Draw(legend)
    for place in range(lines):
        x, y = pad + place // rows * step, pad + place % rows * line + line // 2
        if place == listed:
            draw.text((x, y), f"+ {len(entries) - listed} more", FAINT, font, anchor="lm")
            break
        swatch = (x, y - round(0.55 * size), x + round(1.3 * size), y + round(0.55 * size))
        draw.rounded_rectangle(swatch, round(0.25 * size), tuple(entries[place][2].tolist()))
        draw.text((x + 2 * size, y), names[place], INK, font, anchor="lm")
        draw.text((x + column, y), shares[place], FAINT, font, anchor="rm")
    return joined([image, legend], below=below)


def with_caption(image: Image.Image, caption: str, paper: tuple[int, int, int] = AMBER, size: int = 0) -> Image.Image:
    """The image below a strip of the colour `paper` with the caption, in at most a dozen lines.

    size: of the font, in pixels (default: by the size of the image).
    """
    size = size or font_size(image.height, image.width)
    (caption,), font = font_for([caption], size)
    width = max(image.width, NARROWEST * size)
    lines = wrapped(caption, font, width - 2 * size)
    strip = Image.new("RGB", (width, round((1.4 * len(lines) + 0.8) * size)), paper)
    draw = ImageDraw.Draw(strip)
    for row, text in enumerate(lines):
        draw.text((size, round((1.4 * row + 1.1) * size)), text, INK, font, anchor="lm")
    return joined([strip, image])


def joined(images: list[Image.Image], below: bool = True, gap: int = 0) -> Image.Image:
    """Images below each other, or side by side, `gap` pixels apart on white paper."""
    sizes = np.array([image.size for image in images])  # (N, 2)  width, height
    along, across = (1, 0) if below else (0, 1)
    starts = np.cumsum([0, *(sizes[:, along] + gap)])  # (N + 1,)
    extent = [0, 0]
    extent[along], extent[across] = int(starts[-1]) - gap, int(sizes[:, across].max())
    sheet = Image.new("RGB", tuple(extent), PAPER)
    for image, start in zip(images, starts.tolist(), strict=False):
        sheet.paste(image, (0, start) if below else (start, 0))
    return sheet


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


# Searched in this order for texts that DejaVu Sans cannot write, such as Chinese, Japanese or Korean ones.
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI"),
    *("Noto Sans", "Arial Unicode MS", "FreeSans", "Unifont"),
)
UNKNOWN = "\ufffd"  # replaces a character that no font has


def font_for(texts: list[str], size: int) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """The texts, each on one line, and the font of `size` pixels that has the most of their characters.

    Characters that it lacks are replaced. The font's file is `font.path`.
    """
    texts = [" ".join(text.split()) for text in texts]
    needed = {ord(character) for text in texts for character in text}
    default = default_font()
    path = min(candidates(default, needed), key=lambda path: len(needed - characters(path)))
    missing = dict.fromkeys(needed - characters(path), UNKNOWN)
    return [text.translate(missing) for text in texts], ImageFont.truetype(path, size)


def default_font() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def candidates(default: str, needed: set[int]):
    """Files of fonts, the default first; the installed ones are only looked up when it lacks a character."""
    yield default
    if needed <= characters(default):
        return
    from matplotlib.font_manager import FontProperties, findfont

    for family in FALLBACKS:
        try:
            yield findfont(FontProperties(family=family), fallback_to_default=False)
        except ValueError:  # not installed
            continue


@cache
def characters(path: str) -> frozenset[int]:
    """The code points that a font file has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


MOST_LETTERS = 400  # measured at a time; more do not fit on any line of a legend
MOST_LINES = 12
ELLIPSIS = "…"


def letters_within(text: str, font, width: float) -> int:
    """How many leading letters of `text` fit in `width` pixels."""
    most = min(len(text), MOST_LETTERS)
    return bisect_right(range(1, most + 1), width, key=lambda count: font.getlength(text[:count]))


def shortened(text: str, font, width: float) -> str:
    """The text, with an ellipsis in place of what does not fit in `width` pixels."""
    count = letters_within(text, font, width)
    if count == len(text):
        return text
    count = letters_within(text, font, width - font.getlength(ELLIPSIS))
    return text[:count].rstrip() + ELLIPSIS


def wrapped(text: str, font, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces where there are any; the last of MOST_LINES is shortened."""
    lines = []
    while text and len(lines) < MOST_LINES - 1:
        count = max(1, letters_within(text, font, width))
        if count < len(text) and " " in text[1 : count + 1]:
            count = text.rindex(" ", 1, count + 1)
        lines.append(text[:count].rstrip())
        text = text[count:].lstrip()
    return [*lines, shortened(text, font, width)] if text else lines


DPI = 72  # with which a point is a pixel, so font sizes are in pixels


def empty_figure(width: float, height: float):
    """A figure of at least that many pixels."""
    from matplotlib.figure import Figure

    return Figure((math.ceil(width) / DPI, math.ceil(height) / DPI), dpi=DPI)


def as_image(figure) -> Image.Image:
    """What matplotlib draws of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def widest(texts: list[str], font) -> float:
    """Pixels of the widest text in a Pillow font, as matplotlib draws it: Pillow may place letters closer."""
    from matplotlib.backends.backend_agg import RendererAgg

    renderer, properties = RendererAgg(1, 1, DPI), font_properties(font)
    sizes = (renderer.get_text_width_height_descent(text, properties, ismath=False) for text in texts if text)
    return max((width for width, _, _ in sizes), default=0)


def font_properties(font):
    """The file and size of a Pillow font, for matplotlib."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=font.path, size=font.size)
