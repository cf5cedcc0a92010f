"""Legends and captions: what they say, and that any text can be drawn in a short time."""

import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from stripes import names, stripes

from proxyclip.pictures import legend
from proxyclip.pictures.legend import (
    UNKNOWN,
    font_for,
    joined,
    letters_within,
    percent,
    shortened,
    with_caption,
    with_legend,
    wrapped,
)

BLANK = Image.new("RGB", (400, 300))
RED = np.array([255, 0, 0], np.uint8)


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """Collects all text that Pillow draws."""
    texts = []
    draw_text = legend.ImageDraw.ImageDraw.text

    def spy(self, position, text, *args, **options):
        texts.append(text)
        return draw_text(self, position, text, *args, **options)

    monkeypatch.setattr(legend.ImageDraw.ImageDraw, "text", spy)
    return texts


def test_a_legend_lists_what_is_there_largest_first(texts):
    result = stripes(400, 600, ("road;street", "car; truck", "sky", "cow"))
    result.labels[:] = 0
    result.labels[:, 150:] = 2
    result.labels[0, :2] = 1
    result.overlay()
    assert texts == ["sky", "75 %", "road", "25 %", "car", "< 0.1 %"]


def test_a_legend_counts_what_does_not_fit(texts):
    assert stripes(400, 600, names(300)).overlay().height < 1.7 * 400
    listed = len([text for text in texts if text in names(300)])
    assert listed >= 20
    assert texts[-1] == f"+ {299 - listed} more"


def test_a_share_may_be_left_out(texts):
    with_legend(BLANK, [("sky", None, RED), ("cow", 0.5, RED)])
    assert texts == ["sky", "", "cow", "50 %"]


def test_percent():
    assert [percent(share) for share in (1, 0.0996, 0.09949, 0.0005, 0.0004)] == [
        "100 %", "10 %", "9.9 %", "0.1 %", "< 0.1 %"
    ]  # fmt: skip


def test_long_names_are_cut_and_captions_broken(texts):
    caption = "a caption that is much longer than the image below it is wide, " * 3
    stripes(320, 320, ["x" * 200, "cow"]).overlay(caption=caption)
    assert texts[0].endswith("x…")
    assert len(texts[0]) < 60
    assert " ".join(texts[2:]) == caption.strip()
    assert len(texts) > 4


def test_shortened_holds_all_that_fits():
    (text,), font = font_for(["The quick brown fox jumps over the lazy dog"], 20)
    for width in range(30, 500, 13):
        short = shortened(text, font, width)
        assert font.getlength(short) <= width
        if short != text:
            count = len(short) - 1  # letters before the ellipsis; the next one, a space aside, does not fit
            assert text.startswith(short[:-1])
            assert font.getlength(text[: count + 2].rstrip() + "…") > width
        assert font.getlength(text[: letters_within(text, font, width)]) <= width
    assert shortened(text, font, 10_000) == text
    assert shortened("wide", font, 0) == "…"


def test_wrapped_lines_fit_and_lose_nothing():
    (text,), font = font_for(["the quick brown fox " + "x" * 90 + " jumps over the lazy dog"], 20)
    lines = wrapped(text, font, 250)
    assert max(map(font.getlength, lines)) <= 250
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lines[0] == "the quick brown fox"
    assert wrapped("", font, 250) == []
    assert wrapped("x", font, 0) == ["x"]  # a letter a line, however narrow
    assert len(wrapped(text * 100, font, 250)) == 12
    assert wrapped(text * 100, font, 250)[-1].endswith("…")


@pytest.mark.parametrize("letter", ["x", "空", "é", "\ud800", "x ", "\n", "i"])
def test_a_hundred_thousand_letters_take_no_time(letter):
    text = letter * 100_000
    with_legend(BLANK, [("warm up", 0.5, RED)])
    font_for([letter], 20)
    started = time.perf_counter()
    with_legend(BLANK, [(text, 0.5, RED)])
    with_caption(BLANK, text)
    assert time.perf_counter() - started < 0.2  # 0.1 s for each of the two


def test_any_text_can_be_drawn():
    odd = ["", " ", "a\nb", "a\x00b", "\ud800", "a\u202eb", "👍🏽", "x\u0301" * 500, "\t", "\ufeff", "空"]
    with_legend(BLANK, [(text, 0.5, RED) for text in odd])
    for text in odd:
        with_caption(BLANK, text)


def test_characters_that_no_font_has(monkeypatch):
    monkeypatch.setattr(legend, "FALLBACKS", ())
    replaced, font = font_for(["Bäume", "небо", "a\nb  c", "空x", "\ud800"], 14)
    assert replaced == ["Bäume", "небо", "a b c", f"{UNKNOWN}x", UNKNOWN]
    assert font.getname()[0] == "DejaVu Sans"


def test_another_font_where_the_default_lacks_characters(monkeypatch):
    """A font of matplotlib's own stands in for an installed one."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    other = legend.characters(str(folder / "STIXGeneral.ttf")) - legend.characters(str(folder / "DejaVuSans.ttf"))
    text = chr(max(other))
    monkeypatch.setattr(legend, "FALLBACKS", ("Absent", "STIXGeneral"))
    assert font_for(["sky"], 14)[1].getname()[0] == "DejaVu Sans"
    replaced, font = font_for(["sky", text], 14)
    assert replaced == ["sky", text]
    assert font.getname()[0] == "STIXGeneral"


def test_joined():
    red, blue = Image.new("RGB", (3, 2), "red"), Image.new("RGB", (5, 1), "blue")
    below, beside = joined([red, blue], gap=4), joined([red, blue], below=False)
    assert (below.size, beside.size) == ((5, 7), (8, 2))
    assert (below.getpixel((0, 0)), below.getpixel((4, 6))) == ((255, 0, 0), (0, 0, 255))
    assert (below.getpixel((0, 3)), below.getpixel((4, 0))) == ((255, 255, 255), (255, 255, 255))
    assert (beside.getpixel((3, 0)), beside.getpixel((3, 1))) == ((0, 0, 255), (255, 255, 255))
