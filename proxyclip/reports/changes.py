"""What a run changed from the standard protocol of its benchmark, and the name of its row in tables.

The standard protocol is the benchmark's configuration with the preset's own settings. Scores under different protocols
cannot be compared, so a run that changed anything gets its own row, named after what it changed.
"""

import hashlib
import json

NOT_RECORDED = "protocol not recorded"
MOST_LETTERS = 60  # of one value


def changes(run: dict) -> str:
    """What the run changed, as "beta 1.6, short_side 96"; "" for a standard run.

    Lines written before `changed` existed do not say: they are "protocol not recorded", after the number of images if
    that was limited. A line without a score has nothing to compare and changed nothing unless it says so.
    """
    changed = run.get("changed")
    if changed is not None:
        return ", ".join(describe(field, changed[field]) for field in sorted(changed))
    if run.get("mIoU") is None:
        return ""
    limit = run.get("protocol", {}).get("limit")
    return f"{describe('limit', limit)}, {NOT_RECORDED}" if limit else NOT_RECORDED


def of_published_runs(run: dict) -> bool:
    """Whether a run follows the protocol of the method's published runs instead of the benchmark's standard."""
    return run.get("protocol", {}).get("name") == "published"


def row_name(run: dict) -> str:
    """The model's name, followed by what the run changed: "ProxyCLIP (beta 1.6, short_side 96)".

    Runs under the protocol of the published runs have rows of their own, "NACLIP, published protocol", and so have
    trained weights, named after their training and a digest: "ZegCLIP, voc20 inductive 1a2b3c".
    """
    changed, trained = changes(run), " ".join(filter(None, (run.get("trained") or {}).values()))
    name = f"{run['model']}, {trained}" if trained else run["model"]
    name += ", published protocol" * of_published_runs(run)
    return f"{name} ({changed})" if changed else name


def describe(field: str, value) -> str:
    if field == "limit" and isinstance(value, int):
        return f"first {value} images"
    text = "none" if value is None else value_text(value)
    if len(text) > MOST_LETTERS:  # still different for different values
        text = f"{text[:MOST_LETTERS]}… [{hashlib.sha256(text.encode()).hexdigest()[:6]}]"
    return f"{field} {text}"


def value_text(value) -> str:
    """A plain JSON value for a reader: yes and no, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
