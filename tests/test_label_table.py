"""The labels that a model is trained on: by names, and without a trace of which unseen class a pixel has."""

import itertools
import pickle

import numpy as np
import pytest

from datasets.augment import UNLABELLED, LabelTable
from datasets.label_map import VOID
from heads import losses
from proxyclip.errors import InputError

CLASSES = ("sky", "cat", "dog", "sea", "cup")
LABEL = np.array([[0, 1, 2], [3, 4, VOID]], np.int32)  # H != W


@pytest.mark.parametrize("seen", list(itertools.permutations(("sky", "dog", "sea"))))
def test_inductive(seen):
    """Numbered in the order of the dataset, whatever order the seen names are given in."""
    table = LabelTable.inductive(CLASSES, seen)
    assert table(LABEL).tolist() == [[0, VOID, 1], [2, VOID, VOID]]
    assert table.names == ("sky", "dog", "sea") and table.setting == "inductive"


def test_transductive():
    table = LabelTable.transductive(CLASSES, ("dog", "sky", "sea"))
    assert table(LABEL).tolist() == [[0, UNLABELLED, 2], [3, UNLABELLED, VOID]]
    assert table.names == CLASSES and table.setting == "transductive"


def test_fully():
    table = LabelTable.fully(CLASSES)
    assert np.array_equal(table(LABEL), LABEL)
    assert table.names == CLASSES and table.setting == "fully"


@pytest.mark.parametrize("table", [LabelTable.inductive, LabelTable.transductive], ids=["inductive", "transductive"])
def test_a_label_map_is_as_mapped_pixel_by_pixel(table):
    classes, seen = tuple(map(str, range(171))), tuple(map(str, range(0, 171, 3)))
    label = np.random.default_rng(0).integers(VOID, 171, (40, 60)).astype(np.int32)
    expected = np.empty_like(label)
    for place, value in np.ndenumerate(label):
        if value == VOID:
            expected[place] = VOID
        elif str(value) in seen:
            expected[place] = value // 3 if table == LabelTable.inductive else value
        else:
            expected[place] = VOID if table == LabelTable.inductive else UNLABELLED
    before, mapped = label.copy(), table(classes, seen)(label)
    assert np.array_equal(mapped, expected) and mapped.dtype == np.int32
    assert np.array_equal(label, before)


def test_the_values_are_those_of_the_losses():
    assert VOID == losses.VOID and UNLABELLED < VOID < 0


def test_it_can_be_sent_to_a_worker():
    table = LabelTable.inductive(CLASSES, ("sky",))
    assert pickle.loads(pickle.dumps(table)) == table


@pytest.mark.parametrize(
    "seen, sentence",
    [
        (("sky", "dag"), "seen: there is no class 'dag'; did you mean dog"),
        (("sky", "sky"), "seen must be all different; 'sky' is given twice"),
        ("sky", "seen is a single string, 'sky'"),
        ((), "seen must name at least one class"),
        ((3,), "a name in seen must be a non-empty string, not 3"),
    ],
)
@pytest.mark.parametrize("table", [LabelTable.inductive, LabelTable.transductive], ids=["inductive", "transductive"])
def test_wrong_names(table, seen, sentence):
    with pytest.raises(InputError, match=sentence):
        table(CLASSES, seen)


@pytest.mark.parametrize("value", [UNLABELLED, len(CLASSES), 255])
def test_a_value_that_is_no_class(value):
    label = LABEL.copy()
    label[0, 1] = value
    with pytest.raises(InputError, match=rf"a label map has values from .*{value}.*, not -1 \(void\) ... 4"):
        LabelTable.fully(CLASSES)(label)
