"""Options: typed, checked, within what models can compute with, and parsed from text by their annotations."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import tiny_clip

from proxyclip.errors import InputError, nearest
from proxyclip.loading import plan
from proxyclip.options import LARGEST, make_options, parse_option


@dataclass(frozen=True)
class Options:
    crop: int = 336
    beta: float = 1.2
    gamma: float | None = None
    pair: Literal["qq", "kk"] = "qq"
    blocks: tuple[int, ...] = (1,)
    templates: tuple[str, ...] | None = None
    residual: bool = False


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("crop", np.int64(3), 3),
        ("beta", 2, 2.0),
        ("beta", np.float32(0.5), 0.5),
        ("gamma", None, None),
        ("gamma", 1, 1.0),
        ("blocks", (3, 4), (3, 4)),
        ("residual", True, True),
    ],
)
def test_values_become_python_s_own(name, value, kept):
    result = getattr(make_options(Options, {name: value}, "method toy"), name)
    assert (result, type(result)) == (kept, type(kept))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("crp", 1, "method toy has no option 'crp'; did you mean crop?"),
        ("crop", 1.5, "crop must be a whole number, not 1.5"),
        ("crop", True, "crop must be a whole number, not True"),
        ("crop", "3", "crop must be a whole number, not '3'"),
        ("crop", 10**400, f"crop is 1000.*0000; choose a number of at most {LARGEST}"),
        ("beta", LARGEST + 1, f"beta is 1000001; choose a number of at most {LARGEST}"),
        ("beta", float("nan"), "beta must be a finite number, not nan"),
        ("beta", float("inf"), "beta must be a finite number, not inf"),
        ("gamma", "none", "gamma must be a finite number or none, not 'none'"),
        ("pair", "vv", "pair must be one of 'qq', 'kk', not 'vv'"),
        ("blocks", [1, 2], r"blocks must be whole numbers, as in 1,2,3, not \[1, 2\]"),
        ("blocks", (1, 2.5), r"blocks must be whole numbers, as in 1,2,3, not \(1, 2.5\)"),
        ("templates", "a {}", "templates must be a tuple of strings or none, not 'a {}'"),
        ("residual", 1, "residual must be true or false, not 1"),
    ],
)
def test_values_that_cannot_be(name, value, sentence):
    with pytest.raises(InputError, match=sentence.replace("?", re.escape("?"))):
        make_options(Options, {name: value}, "method toy")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("crop", "224", 224),
        ("beta", "1", 1.0),
        ("gamma", "none", None),
        ("pair", "kk", "kk"),
        ("blocks", "6, 7,8", (6, 7, 8)),
        ("templates", "a {}, or two", ("a {}, or two",)),
        ("residual", "True", True),
    ],
)
def test_text_is_parsed_by_the_annotation(name, text, value):
    assert parse_option(Options, name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("crop", "1.5"), ("crop", "none"), ("beta", "nan"), ("pair", "vv"), ("blocks", "1;2"), ("residual", "1")],
)
def test_text_that_cannot_be_parsed(name, text):
    with pytest.raises(InputError, match=f"^{name} must be .*, not {text!r}$"):
        parse_option(Options, name, text)


@pytest.mark.parametrize("name", ["beta", "gamma", "logit_scale", "short_side", "crop", "multiple", "stride"])
def test_numbers_whose_products_are_not_finite(name):
    with pytest.raises(InputError, match=f"{name} is .*; choose a number of at most"):
        plan("mini", **{name: LARGEST + 1})
    with pytest.raises(InputError, match="multiple is 1025; choose at most 1024"):
        plan("mini", multiple=1025)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["beta", "gamma", "logit_scale"])
def test_the_largest_numbers_give_finite_scores(name, precision):
    """Also in half precision: the bound is of use only if all that it lets pass is finite."""
    model = plan("mini", **{name: LARGEST}, precision=precision, crop=32, stride=32, short_side=32).build()
    assert np.isfinite(model.segment(tiny_clip.photograph(30, 40), ["sky", "sea"]).confidence).all()


def test_known_names_are_listed_once():
    assert nearest("x", ["crop", "crop", "beta"]) == "Known: beta, crop"
