"""Download addresses of the benchmarks, from `downloads.json`.

    python -m datasets.downloads           prints the table for docs/datasets.md

Nothing is downloaded here: some archives require registration or a form, and all come with terms that the person
downloading them has to accept.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """One file to download.

    needed_by, splits: names of datasets and of their splits. access: "free", "registration" or "request form".
    unpack_in: a folder below the data root, "." for the root. md5, size, note: empty where none is documented.
    """

    file: str
    name: str
    needed_by: tuple[str, ...]
    splits: tuple[str, ...]
    access: str
    urls: tuple[str, ...]
    unpack_in: str
    md5: str = ""
    size: str = ""
    note: str = ""

    @property
    def place(self) -> str:
        """Where to put the file after the download."""
        folder = "the data root" if self.unpack_in == "." else f"{self.unpack_in} below the data root"
        return f"{'put' if self.file.endswith('.json') else 'unpack'} it in {folder}"

    def __str__(self):
        facts = ", ".join(filter(None, [self.access, self.size, self.md5 and f"md5 {self.md5}"]))
        return f"{self.file} ({facts}) from {' or '.join(self.urls)}; {self.place}"


@cache
def all_archives() -> tuple[Archive, ...]:
    entries = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return tuple(
        Archive(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
        for entry in entries
    )


def archives(dataset: str, split: str) -> list[Archive]:
    """The archives that one split of a dataset needs; empty for a dataset that is not in `downloads.json`."""
    return [archive for archive in all_archives() if dataset in archive.needed_by and split in archive.splits]


def how_to_unpack(dataset: str, split: str) -> str:
    """One clause for error messages; the addresses are long and left to doctor.py."""
    steps = [f"get {archive.file} and {archive.place}" for archive in archives(dataset, split)]
    return f"{', '.join(steps)} (python doctor.py prints the addresses)" if steps else ""


def table() -> str:
    """A Markdown table of all archives."""
    lines = ["| file | for | splits | access | addresses | unpack in | md5 or size | |", "| --- " * 8 + "|"]
    for archive in all_archives():
        links = ", ".join(f"[{url.split('/')[2]}]({url})" for url in archive.urls)
        row = (f"`{archive.file}`", ", ".join(archive.needed_by), ", ".join(archive.splits), archive.access, links)
        row += (f"`{archive.unpack_in}`", f"`{archive.md5}`" if archive.md5 else archive.size, archive.note)
        lines.append(f"| {' | '.join(row)} |".replace("  ", " "))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
