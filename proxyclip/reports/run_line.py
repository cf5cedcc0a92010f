"""One line of results.jsonl: its fields, their valid values, and the conversion of other values to JSON."""

import json
import math
import numbers

SCORES = ("aAcc", "mIoU", "mAcc", "mIoU_present", "mAcc_present", "fwIoU", "never_predicted", "zero_IoU")
MOST_SETTINGS = 500  # each becomes a column, of which a sheet has 16384
MOST_DIGITS = 15  # what a float, and so a spreadsheet, holds of an integer
MOST_LEVELS = 20


def is_name(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_text(value) -> bool:
    return value is None or isinstance(value, str)


def is_number(value) -> bool:
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**MOST_DIGITS


def is_count(value) -> bool:
    return is_number(value) and not isinstance(value, float)


def is_percent(value) -> bool:
    return is_number(value) and (value is None or value < 100.001)  # rounding: a mean of hundreds may exceed 100


def is_class(value) -> bool:
    """The figures of one class: IoU and Acc in percent, and the pixels labelled and predicted."""
    percents, counts = ("IoU", "Acc"), ("labelled", "predicted")
    return isinstance(value, dict) and all(
        check(value.get(key)) for keys, check in ((percents, is_percent), (counts, is_count)) for key in keys
    )


def dict_of(check):
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def is_protocol(value) -> bool:
    return isinstance(value, dict) and len(value) <= MOST_SETTINGS and is_count(value.get("limit"))


def is_changed(value) -> bool:
    return value is None or (isinstance(value, dict) and len(value) <= MOST_SETTINGS)


def is_training(value) -> bool:
    """What weights were trained on, as texts; None for a model without training."""
    return value is None or dict_of(is_text)(value)


# Field -> its check. Fields that are not here are ignored.
CHECKS = {
    "dataset": is_name,
    "model": is_name,
    **dict.fromkeys(("clip", "vfm", "started", "missing", "failed"), is_text),
    **dict.fromkeys(SCORES, is_percent),
    "images": is_count,
    "seconds": is_number,
    "skipped": dict_of(lambda why: isinstance(why, str)),
    "zero_shot": dict_of(dict_of(is_percent)),
    "per_class": dict_of(is_class),
    "protocol": is_protocol,
    "changed": is_changed,
    "trained": is_training,
}
ABSENT = dict.fromkeys(CHECKS) | {"skipped": {}, "zero_shot": {}, "per_class": {}, "protocol": {}}


def parse_run(line: bytes) -> dict | None:
    """The run of a line, with None or {} for the fields that it lacks; None for a line that is not a valid run."""
    try:
        run = to_plain(json.loads(line))
    except (ValueError, RecursionError):
        return None
    if not isinstance(run, dict):
        return None
    run = ABSENT | run
    return run if all(check(run[field]) for field, check in CHECKS.items()) else None


def to_plain(value, level: int = 0):
    """The same value in JSON's own types, so that it can always be written.

    NumPy and torch values become numbers and lists; NaN and infinity None; lone surrogates, as in file names
    that are not UTF-8, their escapes; integers beyond 64 bits hexadecimal text; anything else its text. What is nested
    more than MOST_LEVELS deep is cut off.
    """
    if level > MOST_LEVELS:
        return "…"
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value) if abs(value) < 2**63 else hex(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {to_text(key): to_plain(item, level + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item, level + 1) for item in value]
    return to_text(value)


def to_text(value) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()
