"""Names of outputs: the input's folders and name, no two alike on any file system."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from proxyclip.output_names import file_name

LONGEST = 200  # bytes of a part, which leaves room for endings and the names of heat maps


def output_names_of(file_names: Sequence[str]) -> list[str]:
    """A name for each of the different paths "a/b.jpg": "a/b"; "a/b_jpg" where an "a/b.png" is there as well.

    A part that some system rejects is replaced, see `file_name`. A name depends on its path and on the paths that would
    have the same name, not on the order.
    """
    parted = [path.rpartition("/") for path in file_names]
    short = [joined(folder, name.rpartition(".")[0] or name) for folder, _, name in parted]
    taken = Counter(map(reading, short))
    long = [
        name if taken[reading(name)] == 1 else joined(folder, whole.replace(".", "_"))
        for name, (folder, _, whole) in zip(short, parted, strict=True)
    ]
    taken = Counter(map(reading, long))
    return [
        name
        if taken[reading(name)] == 1
        else f"{name}~{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
        for name, path in zip(long, file_names, strict=True)
    ]


def joined(folder: str, name: str) -> str:
    return "/".join(file_name(part, LONGEST) for part in (*filter(None, folder.split("/")), name))


def reading(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()
