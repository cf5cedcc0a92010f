"""File names for saved segmentations."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.vocabulary import split_names

MOST_BYTES = 220  # of a file name; file systems take 255, but programs that write files add to their names
CLASS_BYTES = 60  # of a class's part of it
LONGEST_NAME = 255  # bytes that file systems accept
UNSAFE = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|\ud800-\udfff]')  # in a file's name on one system or another


def output_names(stem: str, heatmaps=()) -> dict[str, str]:
    """Key -> file name of everything that `Segmentation.save` writes; heatmaps: the classes that have one.

    Raises InputError where `stem` cannot begin those names: one with a folder in it, or one that is too long.
    """
    if not is_file_name(stem):
        raise InputError(f"stem {stem!r} cannot start a file name: choose one without a folder, such as 'street'")
    names = {"overlay": f"{stem}_overlay.png", "labels": f"{stem}_labels.png", "json": f"{stem}.json"}
    for name, part in zip(heatmaps, class_parts(heatmaps), strict=True):
        names[f"heatmap {name}"] = f"{stem}_heatmap_{part}.png"
        names[f"probability {name}"] = f"{stem}_probability_{part}.png"
    try:
        longest = max(len(os.fsencode(name)) for name in names.values())
    except UnicodeEncodeError:
        raise InputError(f"stem {stem!r} cannot start a file name: it contains half a character") from None
    if longest > MOST_BYTES:
        most = len(os.fsencode(stem)) - (longest - MOST_BYTES)
        raise InputError(f"stem {stem!r} is too long for file names: choose one of at most {most} bytes")
    return names


def is_file_name(stem) -> bool:
    """Whether it is text that stays in its folder, on any system."""
    if not isinstance(stem, str) or stem.strip() in ("", ".", ".."):
        return False
    return not re.search(r"[/\\\0]", stem) and Path(stem).name == stem


def class_parts(names) -> list[str]:
    """A distinct part of a file name for each class: letters and digits of its first name."""
    parts, used = [], Counter()
    for name in names:
        plain = re.sub(r"\W+", "_", unicodedata.normalize("NFC", split_names(name)[0])).strip("_")
        part = plain.encode()[:CLASS_BYTES].decode(errors="ignore") or "class"
        used[part.casefold()] += 1  # some file systems take "Car" and "car" for one name
        count = used[part.casefold()]
        parts.append(f"{part}-{count}" if count > 1 else part)
    return parts


def file_name(part: str, longest: int = LONGEST_NAME - len(".png")) -> str:
    """The part of a path, if it is a valid file name on any system and has at most `longest` bytes.

    Others ("..", too long, or with characters that a system rejects) are replaced and get a hash, so that different
    parts stay different.
    """
    if part.strip(" .") and not UNSAFE.search(part) and len(part.encode()) <= longest:
        return part
    digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    start = UNSAFE.sub("_", part).lstrip(". ").encode()[: longest - 13].decode("utf-8", "ignore")
    return f"{start}~{digest}"
