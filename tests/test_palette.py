"""A colour for every class name."""

import itertools

import numpy as np
from stripes import NAMES, names

from proxyclip.pictures.overlay import class_colours, oklab, palette


def test_oklab_of_white_and_red():
    np.testing.assert_allclose(oklab(np.ones(3)), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(oklab(np.array([1.0, 0, 0])), [0.628, 0.2249, 0.1258], atol=1e-3)  # as published


def test_colours_of_names_are_fixed():
    sky, grass = class_colours(["sky", "grass"]).tolist()
    assert sky == [0, 187, 238]
    assert grass == [17, 187, 119]


def closest(colours: np.ndarray) -> float:
    lab = oklab(colours / 255)
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))


def test_thirty_classes_are_well_apart_and_not_black():
    colours = class_colours(NAMES)
    assert len(NAMES) == 30
    assert closest(colours) > 0.09
    assert oklab(colours / 255)[:, 0].min() > 0.4


def test_every_name_has_a_colour():
    """Lone surrogates and a hundred thousand letters too."""
    assert class_colours(["\ud800", "x" * 100_000]).shape == (2, 3)


def test_many_classes_still_differ():
    assert closest(class_colours(names(60))) > 0.05
    assert len(np.unique(class_colours(names(847)), axis=0)) == 847
    assert len(class_colours(names(len(palette()) + 50))) == len(palette()) + 50


def test_colours_belong_to_names_whatever_their_order_and_case():
    colours = dict(zip(NAMES, class_colours(NAMES).tolist(), strict=True))
    turned = dict(zip(NAMES[::-1], class_colours(NAMES[::-1]).tolist(), strict=True))
    assert colours == turned
    assert class_colours(["Car; truck"]).tolist() == class_colours(["car;lorry"]).tolist()


def test_names_that_want_the_same_colour_get_two():
    alone = {name: tuple(class_colours([name])[0].tolist()) for name in names(100)}
    clashes = [pair for pair in itertools.combinations(alone, 2) if alone[pair[0]] == alone[pair[1]]]
    assert clashes
    for pair in clashes:
        both = [tuple(colour) for colour in class_colours(list(pair)).tolist()]
        assert both[0] != both[1]
        assert alone[pair[0]] in both  # one of them keeps its own
