"""Which images an input names, and how their outputs are called."""

import hashlib
import os
import pickle
import random
import sys
import time
import tracemalloc
import unicodedata

import pytest

from proxyclip.errors import InputError, NotFound
from proxyclip.files import file_name
from proxyclip.folder import inputs as inputs_module
from proxyclip.folder.inputs import below, find_inputs, inputs_of, renamed, short_name


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
    return [item.name for item in find_inputs(inputs, **options)]


def test_a_folder_means_its_images_sorted_and_without_hidden_ones(photos):
    items = find_inputs(["photos"])
    assert [*items] == [
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
    assert names("photos", "./photos/a/../b.jpg", str(photos)) == ["b", "a/c"]


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
        find_inputs(["photos", given])


def test_objects_in_a_store():
    import fsspec

    files = fsspec.filesystem("memory")
    for name in ("bucket/a/x.jpg", "bucket/y.png", "bucket/z.txt"):
        files.pipe_file(f"/{name}", b"x")
    assert names("memory://bucket") == ["a/x", "y"]
    assert names("memory://bucket/*.png") == ["y"]
    assert names("memory://bucket/y.png") == ["y"]


def named(paths) -> list[str]:
    """The names of outputs for paths relative to a root."""
    changed = renamed(paths, parts)
    return [changed.get(path) or short_name(*parts(path)) for path in paths]


def parts(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    return folder + slash, name


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
    found = named(paths)
    assert len({name.casefold() for name in found}) == len(paths)
    assert found[3] == "b/x" and found[5] == "y.tar.gz"
    assert found[0].startswith("a/x_jpg") and found[1] == "a/x_png"
    assert named(paths[::-1])[::-1] == found  # the order does not matter


PARTS = [
    "a",
    "ab",
    "b",
    "..",
    ".",
    " ",
    "c:",
    "x.jpg",
    "X.JPG",
    "x.png",
    ".jpg",
    "..jpg",
    "x_jpg.png",
    "q?.jpg",
    "l" * 300 + ".jpg",
]
PARTS += ["\u00e9.jpg", "e\u0301.jpg", "\u017f.jpg", "s.jpg", "stra\u00dfe.jpg", "STRASSE.jpg"]


def plainly(paths) -> list[str]:
    """The names of outputs, all at once: without ending; with it where names are alike; with a hash where still."""
    short = ["".join(f"{file_name(part, 200)}/" for part in path.split("/")[:-1] if part) for path in paths]
    stems = [path.rpartition("/")[2] for path in paths]
    long = [folder + file_name(stem.replace(".", "_"), 200) for folder, stem in zip(short, stems, strict=True)]
    short = [
        folder + file_name(stem.rpartition(".")[0] or stem, 200) for folder, stem in zip(short, stems, strict=True)
    ]
    names = [one if alone(one, short) else other for one, other in zip(short, long, strict=True)]
    hashes = [hashlib.sha256(path.encode()).hexdigest()[:12] for path in paths]
    return [name if alone(name, names) else f"{name}~{ending}" for name, ending in zip(names, hashes, strict=True)]


def alone(name: str, names) -> bool:
    read = unicodedata.normalize("NFC", name).casefold()
    return [unicodedata.normalize("NFC", other).casefold() for other in names].count(read) == 1


def test_items_are_named_as_all_paths_at_once():
    """Folders are looked up once, and only names that others have are held."""
    dice = random.Random(0)
    for _ in range(300):
        some = (dice.choices(PARTS, k=dice.randint(1, 4)) for _ in range(12))
        paths = ["/" * (dice.random() < 0.2) + "/".join(few) for few in some]
        whole = [*dict.fromkeys(map(os.path.abspath, paths))]
        for root in ("", "/", "/a", os.getcwd(), os.getcwd() + "/a"):
            start = root.rstrip("/") + "/"
            inside = [path[len(start) :] if root and path.startswith(start) else path.lstrip("/") for path in whole]
            items = inputs_of(paths, root)
            assert [item.file_name for item in items] == inside  # each file once
            assert [item.name for item in items] == plainly(inside)


def test_equal_hashes_change_no_name(monkeypatch):
    """Names are compared by their hashes first, which two different names may share."""
    monkeypatch.setattr(inputs_module, "hash", lambda name: len(name) % 2, raising=False)
    paths = ["a.jpg", "b.jpg", "bb.jpg", "B.png", "b_jpg.jpg"]
    assert named(paths) == plainly(paths)


def listing_of(folder, count: int):
    """A file of so many paths, one in ten with a name that another has."""
    path = folder / "list.txt"
    path.write_text(
        "".join(f"data/part{i % 100}/{i - (i % 10 == 0)}.{'jpg' if i % 10 else 'JPG'}\n" for i in range(count))
    )
    return path


def test_items_are_a_sequence(tmp_path, monkeypatch):
    """Each way to an item gives the same, also in another process with another current folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data/part3/3.png"
    file.parent.mkdir(parents=True)
    file.write_text("x")
    items = find_inputs([str(listing_of(tmp_path, 49)), "data"])
    every = [*items]
    assert len(items) == len(every) == 50 and len({item.name for item in every}) == 50
    assert [items[place] for place in range(50)] == every and items[-1] == every[-1]
    assert [*items[1::3]] == every[1::3] and [*items[40:][::-1]] == every[40:][::-1]
    assert [*items.at([7, 3])] == [every[7], every[3]]
    monkeypatch.chdir("/")
    below.cache_clear()
    assert [*pickle.loads(pickle.dumps(items[::2]))] == every[::2]


def test_an_input_takes_little_memory(tmp_path):
    """Besides its path: a place in a list and one number; another name only where it is needed."""
    path = listing_of(tmp_path, 20_000)
    path.write_text("".join(sorted({line.lower() for line in path.read_text().splitlines(keepends=True)})))
    find_inputs([str(path)])  # what is held once
    tracemalloc.start()
    items = find_inputs([str(path)])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held - sum(map(sys.getsizeof, items.paths)) < 20 * len(items)
    assert len(pickle.dumps(items)) < path.stat().st_size + 10 * len(items)


def test_names_stay_inside_and_are_short():
    paths = ["../../x.jpg", "a/..jpg", "a/" + "long" * 100 + ".jpg", "a/what?.jpg", "c:/d.jpg"]
    for name in named(paths):
        parts = name.split("/")
        assert ".." not in parts and all(0 < len(part.encode()) <= 200 for part in parts)
        assert "?" not in name and ":" not in name


def test_a_long_listing_is_read_quickly(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"data/part{i % 100}/{i}.jpg\n" for i in range(100_000)))
    started = time.process_time()
    items = find_inputs([str(listing)])
    assert time.process_time() - started < 5
    assert len(items) == 100_000 and items[7].name == "part7/7"
