"""Bar charts: lengths, room for every class, and texts exactly as given."""

import numpy as np
import pytest
from PIL import Image
from stripes import names

from proxyclip.pictures.charts import LINE, PAD, Bar, bar_chart, stack

BLUE = (54, 110, 190)


def rows_of_ink(image: Image.Image) -> np.ndarray:
    """How many pixels of each row are dark text."""
    return (np.asarray(image).max(-1) < 100).sum(1)


def test_bars_are_as_long_as_their_values():
    bars = [Bar("all", 100.0, "100"), Bar("half", 50.0, "50"), Bar("none", None, "absent"), Bar("nan", np.nan, "–")]
    pixels = np.asarray(bar_chart("title", "subtitle", bars))
    blue = (pixels == BLUE).all(-1).sum(1)  # blue pixels of each row
    lengths = sorted(set(blue[blue > 0].tolist()))
    assert len(lengths) == 2
    assert lengths[0] == pytest.approx(190, abs=2)
    assert lengths[1] == pytest.approx(380, abs=2)
    assert np.flatnonzero(blue == lengths[1]).max() < np.flatnonzero(blue == lengths[0]).min()  # in the order given


@pytest.mark.parametrize("count", [1, 20, 171, 847])
def test_every_class_has_a_row_of_its_own(count):
    """Of full height, in as many columns as a screen can show."""
    sheet = bar_chart("title", "", [Bar(name, 100, "100.0") for name in names(count)])
    assert 1 / 3 < sheet.width / sheet.height < 3 or count == 1
    blue = (np.asarray(sheet) == BLUE).all(-1)
    starts = blue & ~np.pad(blue, ((1, 0), (0, 0)))[:-1] & ~np.pad(blue, ((0, 0), (1, 0)))[:, :-1]  # top left corners
    rows, _ = starts.nonzero()
    assert len(rows) == count
    assert set(np.diff(np.unique(rows))) <= {LINE - 1, LINE, LINE + 1}


def test_texts_are_not_formulas():
    """Dollar signs, underscores and backslashes appear as they are."""
    plain = bar_chart("", "", [Bar("x_2", 0, "1")])
    for text in ("$x_2$", "$x$_$2$"):
        formula = bar_chart("", "", [Bar(text, 0, "1")])
        assert formula.width > plain.width  # room for the signs …
        assert rows_of_ink(formula).sum() > 1.3 * rows_of_ink(plain).sum()  # … which are there
    bar_chart(r"$\frac{", r"$\nope$ ^_", [Bar(r"\alpha $ {", 1, "$"), Bar("$$", 2, "_^"), Bar("50 % $", 3, "%")])


def test_a_long_title_is_not_cut():
    sheet = bar_chart("a long title " * 20, "", [Bar("all", 100.0, "100")])
    assert (np.asarray(sheet)[:, -PAD:] == 255).all()
    assert sheet.width > 1500


def test_long_names_are_shortened_and_any_text_can_be_drawn():
    odd = ["x" * 100_000, "空", "\ud800", "a\nb", "\x00", "", "👍🏽"]
    sheet = bar_chart("x" * 100_000, "y" * 100_000, [Bar(text, 50, text) for text in odd])
    assert sheet.width < 4200
    narrow = bar_chart("", "", [Bar(text, 50, "50") for text in odd])
    assert narrow.width < 1000
    assert (np.asarray(narrow)[:, :PAD] == 255).all()  # no name begins left of the margin


def test_a_chart_without_bars_has_its_title():
    assert rows_of_ink(bar_chart("title", "subtitle", [])).any()


def test_a_stack_is_as_wide_as_its_widest_image():
    sheet = stack([("a", Image.new("RGB", (200, 10))), ("b", Image.new("RGB", (3000, 50)))], most_width=300)
    assert sheet.width == 300 + 2 * PAD
    assert stack([("a title that is wider than its image", Image.new("RGB", (20, 10)))]).width > 300
