"""Names of outputs: the input's folders and name, no two alike on any file system."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from proxyclip.files import file_name

LONGEST = 200  # bytes of a part, which leaves room for endings and the names of heat maps


def short_name(folder: str, name: str) -> str:
    """The name "a/b" of the outputs of "b.jpg" in the folder "a/"; parts that some system rejects are replaced, see
    `file_name`."""
    return folder_name(folder) + file_name(name.rpartition(".")[0] or name, LONGEST)


def long_name(folder: str, name: str) -> str:
    """The same with the ending: "a/b_jpg"."""
    return folder_name(folder) + file_name(name.replace(".", "_"), LONGEST)


def renamed(inputs: Sequence[str], parts: Callable[[str], tuple[str, str]]) -> dict[str, str]:
    """Input -> name, for the inputs whose name is not their `short_name`: that of "a/b.jpg" is "a/b_jpg" where there is
    an "a/b.png".

    parts: the folder and the name in it of one of the different inputs; called several times, so that they need not be
    held. A name depends on its path and on the paths that would have the same name, not on the order.
    """
    suspects = [inputs[place] for place in alike(inputs, parts)]
    taken = Counter(reading(short_name(*parts(one))) for one in suspects)  # hashes may be equal by chance
    found = {one: long_name(*parts(one)) for one in suspects if taken[reading(short_name(*parts(one)))] > 1}
    taken = Counter(map(reading, found.values()))
    for one in inputs:  # those that have such a name already
        if one not in found and reading(name := short_name(*parts(one))) in taken:
            found[one] = name
            taken[reading(name)] += 1
    return {one: name if taken[reading(name)] == 1 else f"{name}~{digest(*parts(one))}" for one, name in found.items()}


def alike(inputs: Sequence[str], parts: Callable[[str], tuple[str, str]]) -> np.ndarray:
    """The places of the inputs whose short names may be read as that of another: 8 bytes are held for each."""
    hashes = np.fromiter((hash(reading(short_name(*parts(one)))) for one in inputs), np.int64, len(inputs))
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(hashes, again)) if len(again) else again


def digest(folder: str, name: str) -> str:
    return hashlib.sha256((folder + name).encode("utf-8", "surrogatepass")).hexdigest()[:12]


@lru_cache(10_000)
def folder_name(folder: str) -> str:
    """With "/" at the end, unless it is empty. Millions of files share a few folders."""
    return "".join(file_name(part, LONGEST) + "/" for part in filter(None, folder.split("/")))


def reading(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
