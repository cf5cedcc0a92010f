"""Compact JSON."""

import json


def json_bytes(value) -> bytes:
    """The value as one line of UTF-8. Half a character, as in file names that are not Unicode, becomes its escape."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace")
