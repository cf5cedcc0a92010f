"""Writing files: complete or not at all, under any name that a system accepts."""

import os
import threading

import pytest
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.files import replacing, writable_folder, write_image, write_json, write_whole

LONGEST = "ü" * 125 + ".png"  # 254 bytes


def test_the_longest_name(tmp_path):
    write_image(tmp_path / LONGEST, Image.new("L", (3, 2)))
    assert os.listdir(tmp_path) == [LONGEST]


def test_a_longer_name_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"^cannot write the image .*: File name too long$"):
        write_image(tmp_path / f"xx{LONGEST}", Image.new("L", (3, 2)))


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have(name, tmp_path):
    for write in (lambda path: write_whole(path, lambda file: None), writable_folder):
        with pytest.raises(InputError, match="invalid file name"):
            write(tmp_path / name)
    with pytest.raises(InputError, match="invalid file name"):
        write_image(tmp_path / name, Image.new("L", (3, 2)))


def test_an_unknown_ending(tmp_path):
    with pytest.raises(InputError, match=r"no image format is written as \.pgn"):
        write_image(tmp_path / "a.pgn", Image.new("L", (3, 2)))
    assert os.listdir(tmp_path) == []


def test_threads_that_write_the_same_file_at_once(tmp_path):
    """Each writes a whole file; the last one stays."""
    both, contents = threading.Barrier(2), (b"first", b"second")

    def write(content):
        def slowly(file):
            both.wait(10)
            file.write(content[:2])
            file.flush()
            both.wait(10)
            file.write(content[2:])

        write_whole(tmp_path / "same", slowly)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "same").read_bytes() in contents and os.listdir(tmp_path) == ["same"]


def test_what_is_being_written_is_hidden_and_gone_after_an_error(tmp_path):
    (tmp_path / "same").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "same") as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        raise KeyboardInterrupt
    assert (tmp_path / "same").read_text() == "old" and os.listdir(tmp_path) == ["same"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_whole(tmp_path / "ours", lambda file: file.write(b"1"))
    (tmp_path / "theirs").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_nothing_takes_the_place_of_a_device(tmp_path):
    """As root, renaming a file to /dev/stdout would replace it for every program."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: it is not a regular file"):
        write_json(tmp_path / "pipe", {})
    with pytest.raises(InputError, match="it is not a regular file"):
        write_whole(tmp_path, lambda file: None)
    assert (tmp_path / "pipe").is_fifo()
