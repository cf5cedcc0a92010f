"""Which images an input names, and how their outputs are called."""

import os
import time

import pytest

from proxyclip.errors import InputError, NotFound
from proxyclip.folder.inputs import find_items
from proxyclip.folder.naming import output_names_of


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "photos/b.jpg",
        "photos/a/c.PNG",
        "photos/a/d.txt",
        "photos/.hidden/e.jpg",
        "photos/a/.f.jpg",
        "more/b.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "photos"


def names(*inputs, **options) -> list[str]:
    return [item.name for item in find_items(inputs, **options)]


def test_a_folder_means_its_images_sorted_and_without_hidden_ones(photos):
    items = find_items(["photos"])
    assert items == [
        (os.path.join("photos", "b.jpg"), "b.jpg", "b"),
        (os.path.join("photos", "a", "c.PNG"), "a/c.PNG", "a/c"),
    ]


def test_files_patterns_and_listings(photos):
    assert names("photos/b.jpg") == ["b"]
    assert names("photos/a/d.txt") == ["x"]  # a listing with one path, which need not exist
    assert names("photos/**/*") == ["a/c", "b"]
    assert names("photos/*.jpg") == ["b"]
    (photos / "list.txt").write_text("photos/a/c.PNG\n\n  photos/b.jpg  \nmore/none.jpg\n")
    assert names("photos/list.txt") == ["photos/a/c", "photos/b", "more/none"]


def test_names_show_the_folders_below_the_deepest_common_one(photos):
    assert names("photos", "more") == ["photos/b", "photos/a/c", "more/b"]
    assert names("photos/b.jpg", "more/b.jpg") == ["photos/b", "more/b"]
    assert names("photos/b.jpg", "photos/a/c.PNG") == ["b", "a/c"]
    assert names("photos", "photos/a") == ["b", "a/c"]  # each image once


def test_the_output_folder_is_left_out(photos):
    (photos / "result").mkdir()
    (photos / "result" / "b.png").write_text("x")
    assert names("photos", without="photos/result") == ["b", "a/c"]
    assert names("photos") == ["b", "a/c", "result/b"]


def test_links_are_followed_but_not_in_circles(photos):
    (photos / "a" / "up").symlink_to(photos)
    (photos / "z").symlink_to(photos.parent / "more")
    assert names("photos") == ["b", "a/c", "z/b"]


@pytest.mark.parametrize(
    "given, error, words",
    [
        ("nowhere", NotFound, "input nowhere does not exist"),
        ("empty", InputError, "no image or video found in empty"),
        ("photos/*.bmp", InputError, r"no image or video found in photos/\*.bmp"),
        ("broken.jpg", InputError, "broken link"),
        ("binary.txt", InputError, "not UTF-8 text"),
        ("zeros.txt", InputError, "not a list of paths"),
        ("photos\0", InputError, "not allowed"),
        ("nosuch://bucket/a", InputError, "cannot open nosuch://bucket/a"),
    ],
)
def test_wrong_inputs(photos, given, error, words):
    (photos.parent / "empty").mkdir()
    (photos.parent / "broken.jpg").symlink_to("nothing")
    (photos.parent / "binary.txt").write_bytes(b"\xff\xfe\xff")
    (photos.parent / "zeros.txt").write_bytes(b"a\0b.jpg")
    with pytest.raises(error, match=words):
        find_items(["photos", given])


def test_objects_in_a_store():
    import fsspec

    files = fsspec.filesystem("memory")
    for name in ("bucket/a/x.jpg", "bucket/y.png", "bucket/z.txt"):
        files.pipe_file(f"/{name}", b"x")
    assert names("memory://bucket") == ["a/x", "y"]
    assert names("memory://bucket/*.png") == ["y"]
    assert names("memory://bucket/y.png") == ["y"]


def test_names_never_collide():
    paths = [
        "a/x.jpg",
        "a/x.png",
        "a/X.jpg",
        "b/x.jpg",
        "a/x_jpg.png",
        "y.tar.gz.jpg",
        ".jpg",
        "caf\u00e9.jpg",
        "cafe\u0301.jpg",
    ]
    found = output_names_of(paths)
    assert len({name.casefold() for name in found}) == len(paths)
    assert found[3] == "b/x" and found[5] == "y.tar.gz"
    assert found[0].startswith("a/x_jpg") and found[1] == "a/x_png"
    backwards = output_names_of(paths[::-1])[::-1]
    assert backwards == found  # the order does not matter


def test_names_stay_inside_and_are_short():
    paths = ["../../x.jpg", "a/..jpg", "a/" + "long" * 100 + ".jpg", "a/what?.jpg", "c:/d.jpg"]
    for name in output_names_of(paths):
        parts = name.split("/")
        assert ".." not in parts and all(0 < len(part.encode()) <= 200 for part in parts)
        assert "?" not in name and ":" not in name


def test_a_long_listing_is_read_quickly(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"data/part{i % 100}/{i}.jpg\n" for i in range(100_000)))
    started = time.process_time()
    items = find_items([str(listing)])
    assert time.process_time() - started < 5
    assert len(items) == 100_000 and items[7].name == "part7/7"
