"""What a person on the page reads: sentences without paths and stack traces."""

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from proxyclip.errors import InputError, NotFound

log = logging.getLogger("proxyclip.app")
# A path of the server: from its first separator to its last, unless it is part of an address or a fraction.
FOLDERS = re.compile(r"(?<![\w:/.~\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\,;:'\"()]+[/\\])+")
_recording = threading.Lock()


def sentence(error: Exception) -> str:
    """The message of an error; that of anything but invalid input goes to the log, with its traceback."""
    if isinstance(error, (InputError, NotFound)):
        return without_folders(str(error))
    log.error("an error while serving the page", exc_info=error)
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return "There is not enough memory for this image and model: try a smaller image or model."
    return "Something went wrong on the server; its log says more."


def without_folders(text: str) -> str:
    """The text with "…/" in place of the folders of each path; addresses stay."""
    return FOLDERS.sub("…/", text)


@contextmanager
def notes() -> Iterator[list[str]]:
    """The list fills with the warnings of the block when it ends; one block runs at a time, as Python's filters are
    shared by all threads."""
    found = []
    with _recording, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="proxyclip")
        yield found
    found += dict.fromkeys(without_folders(str(warning.message)) for warning in caught)
