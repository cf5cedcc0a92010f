"""A font that covers the characters of given texts, for legends and charts.

DejaVu Sans comes with matplotlib, so most text looks the same on every machine.
"""

from functools import cache
from pathlib import Path

from PIL import ImageFont

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
