"""Keys of caches: two values that differ in anything never take each other's place."""

import warnings

import pytest
import tiny_clip
import torch

from proxyclip.backbones.layers import cached_sampling_matrix
from proxyclip.segmentor import constant
from proxyclip.text import encode_names
from proxyclip.windows import SlidingWindows, make_bands

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
BANDS |= {"sigmoid": True, "flipped": False, "device": torch.device("cpu")}
MATRIX = {"length": 7, "out": 5, "offset": None, "antialias": False, "device": torch.device("cpu")}


def plain(made) -> list:
    """Tensors and bands as values that can be compared."""
    if torch.is_tensor(made):
        return [made.device.type, made.tolist() if not made.is_meta else None]
    return [plain(part) for part in made] if isinstance(made, (tuple, list)) else [made]


@pytest.mark.parametrize(("make", "first", "field", "value"), [
    (make_bands, BANDS, "windows", SlidingWindows(32, 15, 8)),
    (make_bands, BANDS, "length", 79),
    (make_bands, BANDS, "grid", 32),
    (make_bands, BANDS, "window", 20),
    (make_bands, BANDS, "out", 60),
    (make_bands, BANDS, "rows", 8),
    (make_bands, BANDS, "sigmoid", False),
    (make_bands, BANDS, "flipped", True),
    (make_bands, BANDS, "device", torch.device("meta")),
    (cached_sampling_matrix, MATRIX, "length", 9),
    (cached_sampling_matrix, MATRIX, "out", 6),
    (cached_sampling_matrix, MATRIX, "offset", 0.1),
    (cached_sampling_matrix, MATRIX, "antialias", True),
    (cached_sampling_matrix, MATRIX, "device", torch.device("meta")),
])  # fmt: skip
def test_a_field_that_differs(make, first, field, value):
    """A cache that has the neighbour returns what an empty one does, and that differs from the neighbour."""
    other = first | {field: value}
    make.cache_clear()
    expected = plain(make(**other))
    make.cache_clear()
    neighbour = plain(make(**first))
    assert plain(make(**other)) == expected != neighbour


def test_integers_and_floats_are_told_apart():
    """(0,) and (0.0,) are equal, and label maps have the type of the class indices."""
    cpu = torch.device("cpu")
    values = [constant((0.0,), torch.float32, cpu), constant((0,), torch.uint8, cpu), constant((0,), torch.int32, cpu)]
    assert [value.dtype for value in values] == [torch.float32, torch.uint8, torch.int32]
