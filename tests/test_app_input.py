"""What the page accepts: names, files and limits, and what it says otherwise."""

import asyncio
import re

import pytest
from hostile_files import HOSTILE, jpeg
from PIL import ImageFile

from proxyclip.app.limits import Limits
from proxyclip.app.messages import notes, sentence, without_folders
from proxyclip.app.names import read_names
from proxyclip.app.shelf import Shelf
from proxyclip.app.uploads import read_upload, received
from proxyclip.errors import InputError, NotFound
from proxyclip.vocabulary import Vocabulary


def test_names_are_lines_and_commas():
    read = read_names("sky, sea; ocean\n\n  wooden floor \n,tree,\n", Limits())
    assert read == Vocabulary.parse(["sky", "sea; ocean", "wooden floor", "tree"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no names yet"),
        (" \n ,, \n", "there are no names yet"),
        ("a, b; c, d", "the list has 4 names; at most 3 are accepted"),
        ("sky, treehouses", "the name 'treehouses' has 10 letters; at most 8 are accepted"),
        ("x" * 31, "the list of names has 31 letters; at most 30"),
        ("sky, sky", "given twice"),
        ("sky;", "an empty name"),
        ("a\0b", "control character"),
    ],
)
def test_names_beyond_the_limits(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_names(text, Limits(max_names=3, max_letters=8))


def test_names_within_the_limits():
    assert len(read_names("a, b; c", Limits(max_names=3, max_letters=8)).queries) == 3
    assert read_names("eightlet", Limits(max_names=3, max_letters=8)).classes == ("eightlet",)


@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_limits_are_numbers_that_make_sense(value):
    with pytest.raises(InputError, match="--max-pixels is"):
        Limits(max_pixels=value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path, monkeypatch):
    content, message = HOSTILE[name]
    file = tmp_path / "upload"
    file.write_bytes(content)
    loaded = []
    if name == "vast.png":
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image))
    with pytest.raises(InputError, match=message) as caught:
        read_upload(file, name, Limits())
    assert not loaded
    assert "/" not in str(caught.value) and "\n" not in str(caught.value)
    assert repr(name.rpartition("/")[2]) in str(caught.value)


def test_an_image_is_read(tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(jpeg())
    assert read_upload(file, "noise.jpg", Limits()).shape == (200, 300, 3)
    with pytest.raises(InputError, match="'noise.jpg' has 200x300 = 60000 pixels"):
        read_upload(file, "noise.jpg", Limits(max_pixels=59_999))


def receive(chunks, limits=Limits(max_upload=1)):  # noqa: B008
    """The content of an upload, and whether its file is gone afterwards."""
    seen = {}

    async def stream():
        for chunk in chunks:
            seen["chunks"] = seen.get("chunks", 0) + 1
            yield chunk

    async def run():
        async with received(stream(), limits) as path:
            seen["path"], seen["content"] = path, path.read_bytes()

    try:
        asyncio.run(run())
    finally:
        assert "path" not in seen or not seen["path"].exists()
    return seen


def test_uploads_are_received_and_removed():
    assert receive([b"ab", b"c"])["content"] == b"abc"


def test_an_upload_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counted = []

    def chunks():
        for _ in range(100):
            counted.append(1)
            yield bytes(300_000)

    with pytest.raises(InputError, match="larger than 1 MB"):
        receive(chunks())
    assert len(counted) == 4
    assert not list(tmp_path.iterdir())


def test_messages_have_no_folders():
    said = without_folders(
        "the weights are neither in the cache /root/.cache/huggingface/hub nor reachable. "
        "Download https://huggingface.co/timm/x/resolve/main/model.safetensors, "
        "see ~/a/b.txt and C:\\Users\\me\\c.pt; 1/2"
    )
    assert said == (
        "the weights are neither in the cache …/hub nor reachable. "
        "Download https://huggingface.co/timm/x/resolve/main/model.safetensors, see …/b.txt and …/c.pt; 1/2"
    )


def test_a_defect_is_logged_and_not_shown(caplog):
    assert sentence(NotFound("checkpoint /home/me/x.pt does not exist")) == "checkpoint …/x.pt does not exist"
    said = sentence(KeyError("secret /home/me"))
    assert "secret" not in said and "log" in said
    assert "secret" in caplog.text
    assert "memory" in sentence(MemoryError())


def test_warnings_become_notes():
    with notes() as found:
        read_names("sea; water, lake; water", Limits())
    assert len(found) == 1 and "share the name 'water'" in found[0]


class Thing:
    def __init__(self, nbytes):
        self.nbytes = nbytes


def test_the_shelf_holds_a_number_of_bytes():
    shelf = Shelf(100)
    keys = [shelf.put(Thing(40)) for _ in range(2)]
    assert shelf.get(keys[0]).nbytes == 40  # used: the other one goes first
    keys.append(shelf.put(Thing(30)))
    assert [shelf.get(key) is not None for key in keys] == [True, False, True]
    shelf.drop(keys[0])
    shelf.drop(keys[0])
    assert (len(shelf), shelf.bytes) == (1, 30)
    large = shelf.put(Thing(500))  # alone, and still there
    assert (len(shelf), shelf.get(large).nbytes) == (1, 500)
    assert len(set(keys)) == 3 and min(map(len, keys)) >= 16
