"""Lists of names, classes with several names, and class files."""

import os
import reprlib
import warnings

import numpy as np
import pytest
from class_file_queries import split_queries

from proxyclip.errors import InputError, NotFound
from proxyclip.vocabulary import Vocabulary, class_lines, list_of_names, parse_classes_argument


def test_several_names_of_a_class():
    vocabulary = Vocabulary.parse(["sky", "car; truck; red bus", "grass"])
    assert vocabulary.classes == ("sky", "car; truck; red bus", "grass")
    assert vocabulary.queries == ("sky", "car", "truck", "red bus", "grass")
    assert vocabulary.class_of_query == (0, 1, 1, 1, 2)
    assert vocabulary.names == vocabulary.classes


def test_a_semicolon_separates_with_and_without_a_space():
    assert Vocabulary.parse(["car;boat", "e ;f", "c, d"]).queries == ("car", "boat", "e", "f", "c, d")


def test_classes_stay_as_given_and_blanks_around_names_do_not_count():
    vocabulary = Vocabulary.parse(["cat ", " TV monitor;  screen"])
    assert vocabulary.classes == ("cat ", " TV monitor;  screen")
    assert vocabulary.queries == ("cat", "TV monitor", "screen")


def test_a_published_class_file_has_a_rule_of_its_own():
    assert split_queries(["a; b", "c;d", " e ; f "]) == (("a", "b", "c;d", " e ", "f "), (0, 0, 1, 2, 2))


def test_words_to_ask_with_and_names_of_the_classes():
    vocabulary = Vocabulary.parse(["ship; ferry", "grass"], names=["boat", "grass"])
    assert vocabulary.queries == ("ship", "ferry", "grass") and vocabulary.names == ("boat", "grass")
    assert vocabulary.index("boat") == vocabulary.index("ferry") == 0
    with pytest.raises(InputError, match="1 names were given for 2 classes"):
        Vocabulary.parse(["ship", "grass"], names=["boat"])
    with pytest.raises(InputError, match="names must be a list"):
        Vocabulary.parse(["ship"], names="boat")


def test_queries_by_the_names_of_classes():
    """One a class, in the order of the classes, also where prompts have several; all names of a list."""
    classes = ["grass", "sky; wall;tree", "ship; boat", "car; truck"]
    names = ["grass", "background", "vessel", "car; truck"]
    plain = Vocabulary.parse(classes, names)
    assert plain.name_queries == (tuple(names), (0, 1, 2, 3)) and plain.lists == ()
    listed = Vocabulary.parse(classes, names, lists=["background"])
    queries = ("grass", "sky", "wall", "tree", "vessel", "car; truck")
    assert listed.name_queries == (queries, (0, 1, 1, 1, 2, 3)) and listed.names == tuple(names)
    assert (listed.queries, listed.class_of_query) == (plain.queries, plain.class_of_query)


def test_a_vocabulary_is_taken_as_it_is():
    vocabulary = Vocabulary.parse(["ship", "grass"], names=["boat", "grass"])
    assert Vocabulary.parse(vocabulary) is vocabulary


@pytest.mark.parametrize(
    "classes",
    [
        ("cat", "dog"),
        ["cat", "dog"],
        (name for name in ("cat", "dog")),
        np.array(["cat", "dog"]),
        {"cat": 1, "dog": 2}.keys(),
    ],
    ids=["tuple", "list", "generator", "array", "keys"],
)
def test_any_ordered_series_of_names(classes):
    vocabulary = Vocabulary.parse(classes)
    assert vocabulary == Vocabulary.parse(["cat", "dog"])
    assert {type(name) for name in (*vocabulary.classes, *vocabulary.queries)} == {str}


@pytest.mark.parametrize("what", ["classes", "templates", "probabilities"])
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (b"sky", "must be a list of names, not b'sky'"),
        (dict.fromkeys(map(str, range(10_000))), "must be a list of names, not {.*'0': None, .*"),
        ({"sky": "sea"}, "must be a list of names, not {'sky': 'sea'}"),
        ({"sky"}, "must be a list of names, not {'sky'}"),
        (frozenset(("sky",)), "must be a list of names, not frozenset"),
        (None, "must be a list of names, not None"),
        (3, "must be a list of names, not 3"),
        (np.array("sky"), "must be a list of names, not array"),
        (["sky", 3], "entry 1 is 3, not a string"),
        (["sky", None], "entry 1 is None, not a string"),
        (["sky", b"sea"], "entry 1 is b'sea', not a string"),
        (["sky", ["sea"]], r"entry 1 is \['sea'\], not a string"),
        (np.array([["sky", "sea"]]), "entry 0 is array"),
    ],
    ids=reprlib.repr,
)
def test_what_is_not_a_list_of_names(names, sentence, what):
    with pytest.raises(InputError, match=f"^{what}.* {sentence}") as caught:
        list_of_names(names, what)
    assert len(str(caught.value)) < 200
    if what == "classes":
        with pytest.raises(InputError, match=sentence):
            Vocabulary.parse(names)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([], "no classes were given"),
        (("sky"), r"classes must be a list of names, not the single string 'sky': write \['sky'\]"),  # no comma
        (["cat", ""], r"class 1 \(''\) has an empty name"),
        (["  "], "has an empty name"),
        (["\u00a0\u2003"], "has an empty name"),
        (["cat; "], "has an empty name"),
        (["cat;"], "has an empty name"),
        (["cat; ; dog"], "has an empty name"),
        (["cat", "dog", "cat"], "class 'cat' is given twice, as number 0 and 2"),
        (["cat", " cat "], "class 'cat' is given twice, as number 0 and 1"),
        (["cat", "Cat"], r"classes 0 \('cat'\) and 1 \('Cat'\) are the same to CLIP"),
        (["traffic light", "traffic  light"], r"classes 0 \('traffic light'\) and 1 \('traffic  light'\) are the same"),
        (["caf\u00e9", "cafe\u0301"], "classes 0 .* and 1 .* are the same"),
        (["a; sky", "Sky;a"], r"classes 0 \('a; sky'\) and 1 \('Sky;a'\) are the same"),
        (["sky; sky"], r"class 0 \('sky; sky'\) contains the name 'sky' twice"),
        (["sky; SKY "], "contains the name 'SKY' twice"),
        (["cat", "d\ud800g"], r"class 1 .* has a name with the control character '\\ud800'; remove it"),
        (["c\0at"], r"control character '\\x00'"),
        (["cat\tdog"], r"control character '\\t'"),
        (["cat\ndog"], r"control character '\\n'"),
        (["cat\x85dog"], r"control character '\\x85'"),
        (["cat; ?!"], r"class 0 \('cat; \?!'\) has the name '\?!', which has no letter, digit or symbol"),
        (["... -"], "no letter, digit or symbol"),
        (["cat", "x" * 9999 + "\0"], r"class 1 \('x{59}…'\)"),
    ],
    ids=ascii,
)
def test_unusable_classes(classes, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        Vocabulary.parse(classes)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (
            ["a; sky", "sky"],
            r"classes 0 \('a; sky'\) and 1 \('sky'\) share the name 'sky': class 0 gets all its pixels",
        ),
        (["cat; animal", "dog;Animal"], r"classes 0 .* and 1 .* share the name 'Animal'"),
    ],
)
def test_a_name_in_two_classes_brings_a_warning(classes, sentence):
    with pytest.warns(UserWarning, match=sentence):
        vocabulary = Vocabulary.parse(classes)
    assert len(vocabulary.queries) == sum(text.count(";") + 1 for text in classes)


def test_usable_names_bring_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Vocabulary.parse(
            ["sky", "blue sky", "C++", "€", "😀", "straße", "strasse", "日本", "a" * 10_000, "rock 'n' roll", "3"]
        )


@pytest.mark.filterwarnings("ignore:classes .* share")
def test_index_by_any_name():
    vocabulary = Vocabulary.parse(["sky", "car; truck", "truck"])
    assert vocabulary.index("car; truck") == 1
    assert vocabulary.index("car") == 1
    assert vocabulary.index("truck") == 2  # a class of that very name comes first
    with pytest.raises(InputError, match="'trukc' is none of the classes; did you mean truck"):
        vocabulary.index("trukc")


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        ("cat, red car ,sky", ["cat", "red car", "sky"]),
        ("car;boat, sky", ["car;boat", "sky"]),
        ("cat,,sky,", ["cat", "", "sky", ""]),  # refused as empty names
    ],
)
def test_classes_on_a_command_line(given, classes):
    assert parse_classes_argument(given) == classes


@pytest.mark.parametrize("name", ["names.txt", "NAMES.TXT"])
@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (b"cat\ndog, hound\n", ["cat", "dog, hound"]),
        (b"\xef\xbb\xbfcat\r\ncar;boat\r\n\r\n \n", ["cat", "car;boat"]),
        (b"cat\n\ndog", ["cat", "", "dog"]),
        (b"", []),
    ],
)
def test_classes_in_a_file(tmp_path, name, data, classes):
    (tmp_path / name).write_bytes(data)
    assert parse_classes_argument(str(tmp_path / name)) == classes


def test_unusable_class_files(tmp_path):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for name, sentence in [
        ("latin.txt", "is not UTF-8 text: save it as UTF-8"),
        ("folder.txt", "is not a regular file"),
        ("pipe.txt", "is not a regular file"),
        ("x" * 300 + ".txt", "cannot read class file .*name too long"),
    ]:
        with pytest.raises(InputError, match=sentence):
            parse_classes_argument(str(tmp_path / name))
    with pytest.raises(NotFound, match="class file .*absent.txt does not exist"):
        parse_classes_argument(str(tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("cat\ndog\n", ["cat", "dog"]),
        ("cat\r\ndog; hound\r\n", ["cat", "dog; hound"]),
        ("cat\rdog", ["cat", "dog"]),
        ("cat\n\ndog \n", ["cat", "", "dog "]),
        ("cat\n\n", ["cat", ""]),
        ("", []),
    ],
)
def test_class_files(text, lines):
    assert class_lines(text) == lines
