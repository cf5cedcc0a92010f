"""Class files as users save them, and one sentence for invalid ones."""

import os

import pytest

from configs.base import WORDS, read_words
from proxyclip.errors import InputError, NotFound


@pytest.mark.parametrize(
    "content",
    [b"car; boat\nsky", b"car;boat\nsky\n", b"\xef\xbb\xbfcar ;  boat\r\nsky\r\n", b" car;\tboat \rsky"],
    ids=["published", "no blank", "byte order mark, CR LF", "blanks, CR"],
)
def test_lines_and_names_as_people_separate_them(content, tmp_path):
    (tmp_path / "words.txt").write_bytes(content)
    assert read_words(tmp_path / "words.txt", count=2) == ("car; boat", "sky")


@pytest.mark.parametrize("path", sorted(WORDS.glob("*.txt")), ids=lambda path: path.stem)
def test_the_published_files_are_read_as_they_are(path):
    assert "\n".join(read_words(path.stem)) == path.read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"cat\n\ndog\n", "line 2: empty name"),
        (b"cat\ndog; \n", "line 2: empty name"),
        (b"cat\ndog;;hound\n", "line 2: empty name"),
        (b"cat\ndog\n cat \n", "line 3: 'cat' repeats line 1"),
        (b"car;boat\ncar; boat\n", "line 2: 'car; boat' repeats line 1"),
        (b"", "has 0 lines"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"cat\ndog\nsky\n", "has 3 lines; expected 2"),
    ],
)
def test_a_class_file_that_cannot_be_used(content, sentence, tmp_path):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_words(tmp_path / "words.txt", count=2 if "expected" in sentence else None)


def test_no_class_file(tmp_path):
    with pytest.raises(NotFound, match="class file .*nope.txt does not exist; included: ade20k, "):
        read_words("nope")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match="is not a regular file"):
        read_words(tmp_path / "pipe.txt")
