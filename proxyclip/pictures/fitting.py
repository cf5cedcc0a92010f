"""Text truncated or wrapped to a width in pixels, in time independent of the part that is cut off."""

from bisect import bisect_right

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
