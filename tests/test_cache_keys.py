"""Keys of caches: two values that differ in anything never take each other's place."""

import warnings

import pytest
import tiny_clip
import torch

from proxyclip import stitching
from proxyclip.backbones import position_table
from proxyclip.bounded_cache import BoundedCache
from proxyclip.sliding import SlidingWindows
from proxyclip.text import encode_names

TEMPLATES = ("a {}.", "a long photo of the {}.")


def reading(replaced: str, by: str):
    """A model whose tokenizer reads one word of the templates in another way."""
    model = tiny_clip.clip().eval()
    model.tokenizer = lambda texts: tiny_clip.tokenizer()([text.replace(replaced, by) for text in list(texts)])
    return model


def test_another_reading_of_a_template_is_another_embedding():
    """Also where the longest template, which the names' own keys hold, is read alike."""
    encode_names(tiny_clip.clip().eval(), ["cat"], TEMPLATES)
    other = reading("a {}.", "no {}.")
    other_text = other.encode_text
    encoded = []
    other.encode_text = lambda tokens: encoded.append(len(tokens)) or other_text(tokens)
    encode_names(other, ["cat"], TEMPLATES)
    assert encoded == [2]


def test_averages_and_single_prompts_do_not_take_each_other_s_place():
    """One file for both would be built again at every change between them, with a warning."""
    expected = {}
    for average in (True, False):
        expected[average] = encode_names(tiny_clip.clip().eval(), ["cat"], TEMPLATES, average)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for average in (True, False, True):
            model = tiny_clip.clip().eval()
            model.encode_text = None  # everything is on the disk
            assert torch.equal(encode_names(model, ["cat"], TEMPLATES, average), expected[average])


BANDS = {"windows": SlidingWindows(32, 16, 8), "length": 80, "grid": 16, "window": 24, "out": 70, "rows": 16}
BANDS["sigmoid"] = True


def bands(windows, length, grid, window, out, rows, sigmoid):
    view = stitching.View(torch.zeros(grid, 1, grid), windows, (length, length), window_size=(window, window))
    order, found = stitching.bands(view, 0, out, rows, sigmoid)
    return [order.tolist(), *((b.rows, b.near, b.weights.tolist(), b.upsample is not None) for b in found)]


def sampled(length, out, offset, antialias):
    return position_table.sampling_matrix(length, out, offset, antialias, torch.device("cpu")).tolist()


@pytest.mark.parametrize(("make", "module", "name", "first", "field", "value"), [
    (bands, stitching, "_bands", BANDS, "windows", SlidingWindows(32, 15, 8)),
    (bands, stitching, "_bands", BANDS, "length", 79),
    (bands, stitching, "_bands", BANDS, "grid", 32),
    (bands, stitching, "_bands", BANDS, "window", 20),
    (bands, stitching, "_bands", BANDS, "out", 60),
    (bands, stitching, "_bands", BANDS, "rows", 8),
    (bands, stitching, "_bands", BANDS, "sigmoid", False),
    *(
        (sampled, position_table, "MATRICES", {"length": 7, "out": 5, "offset": None, "antialias": False}, *change)
        for change in (("length", 9), ("out", 6), ("offset", 0.1), ("antialias", True))
    ),
])  # fmt: skip
def test_a_field_that_differs(monkeypatch, make, module, name, first, field, value):
    """What a cache gives that holds its neighbour is what an empty one gives, and differs from the neighbour."""
    other, size_of = first | {field: value}, getattr(module, name).size_of
    monkeypatch.setattr(module, name, BoundedCache(2**20, size_of))
    expected = make(**other)
    monkeypatch.setattr(module, name, BoundedCache(2**20, size_of))
    neighbour = make(**first)
    assert make(**other) == expected != neighbour
