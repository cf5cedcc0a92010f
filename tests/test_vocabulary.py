"""Classes and their several names."""

import pytest

from proxyclip.errors import InputError
from proxyclip.vocabulary import Vocabulary, class_lines, split_queries


def test_several_names_of_a_class():
    vocabulary = Vocabulary.parse(["sky", "car; truck; red bus", "grass"])
    assert vocabulary.classes == ("sky", "car; truck; red bus", "grass")
    assert vocabulary.queries == ("sky", "car", "truck", "red bus", "grass")
    assert vocabulary.class_of_query == (0, 1, 1, 1, 2)


def test_only_semicolon_and_space_separate():
    assert Vocabulary.parse(["a;b", "c, d", "e ;f"]).queries == ("a;b", "c, d", "e ;f")


def test_names_are_kept_as_given():
    vocabulary = Vocabulary.parse(["cat ", " TV monitor;  screen"])
    assert vocabulary.classes == ("cat ", " TV monitor;  screen")
    assert vocabulary.queries == ("cat ", " TV monitor", " screen")


def test_any_iterable_of_names():
    assert Vocabulary.parse(name for name in ("cat", "dog")) == Vocabulary.parse(("cat", "dog"))


def test_the_same_name_in_two_classes_is_two_queries():
    assert Vocabulary.parse(["cat; animal", "dog; animal"]).class_of_query == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([], "no classes were given"),
        ("cat", r"must be a list of names, not the single text 'cat': write \['cat'\]"),
        (["cat", ""], r"class 1 \(''\) has an empty name"),
        (["  "], "has an empty name"),
        (["cat; "], "has an empty name"),
        (["cat; ; dog"], "has an empty name"),
        (["cat", "dog", "cat"], "class 'cat' is given twice, as number 0 and 2"),
        (["cat", " cat "], "class 'cat' is given twice, as number 0 and 1"),
        (["cat", 3], "class 1 is 3, which is no text"),
        ([None], "class 0 is None"),
    ],
)
def test_unusable_classes(classes, sentence):
    with pytest.raises(InputError, match=sentence):
        Vocabulary.parse(classes)


def test_index_by_any_name():
    vocabulary = Vocabulary.parse(["sky", "car; truck", "truck"])
    assert vocabulary.index("car; truck") == 1
    assert vocabulary.index("car") == 1
    assert vocabulary.index("truck") == 2  # a class of that very name comes first
    with pytest.raises(InputError, match="'trukc' is none of the classes; did you mean truck"):
        vocabulary.index("trukc")


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


def test_split_queries():
    assert split_queries(["a; b", "c"]) == (("a", "b", "c"), (0, 0, 1))
