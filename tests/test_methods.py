"""Methods as such, and those of one block held against slow ways of writing them."""

import math
from copy import deepcopy

import pytest
import tiny_clip
import torch
import torch.nn.functional as F

import proxyclip
from proxyclip import methods
from proxyclip.errors import InputError
from proxyclip.loading import plan
from proxyclip.methods import find_method, method_names
from proxyclip.methods.naclip import omega
from proxyclip.options import make_options

TOY = '''"""Every patch gets the colour of nothing."""

from dataclasses import dataclass

from proxyclip.methods import _training_free

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """shift: added to all values."""

    shift: float = 1.0


class Toy(_training_free.TrainingFree):
    """CLIP's values, shifted."""

    method = "Toy"

    def embed(self, crops):
        values = self.clip.values(crops) + self.options.shift  # (B, D, h, w)
        return self.clip.project(values.flatten(2).mT).mT.unflatten(2, values.shape[-2:])  # (B, E, h, w)


Method = Toy
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    yield
    monkeypatch.delitem(__import__("sys").modules, "proxyclip.methods.toy", raising=False)


def test_one_more_method_is_one_more_file(toy):
    assert "toy" in method_names()
    model = proxyclip.load("mini", method="toy", shift=0.5)
    image = torch.randint(256, (40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    result = model.segment(image, ["sky", "sea"])
    assert result.labels.shape == (40, 56) and result.settings["shift"] == 0.5 and result.settings["method"] == "Toy"
    assert "toy" not in proxyclip.methods._training_free.__dict__
    with pytest.raises(InputError, match="method toy has no option 'gamma'"):
        plan("mini", method="toy", gamma=3.0)


@pytest.mark.parametrize("name", method_names())
def test_every_method_segments_and_loads_no_model_that_it_does_not_need(name):
    model = proxyclip.load("mini", method=name, crop=64)
    assert (model.vfm is not None) == find_method(name).NEEDS_VFM
    image = torch.rand(2, 70, 90, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    first, second = model.segment(list(image), ["sky", "sea; ocean", "car"])
    assert first.labels.shape == (70, 90)
    again = model.segment(image[1], ["sky", "sea; ocean", "car"])
    assert (again.labels == second.labels).all()  # not what was before it in a batch
    assert first.settings["method"] == find_method(name).Method.method


@pytest.mark.parametrize("name", method_names())
def test_no_method_takes_an_option_of_another(name):
    own = set(find_method(name).Options.__dataclass_fields__)
    for other in method_names():
        for option in set(find_method(other).Options.__dataclass_fields__) - own:
            with pytest.raises(InputError, match=f"method {name} has no option {option!r}"):
                plan("mini", method=name, **{option: 1.0})


@pytest.mark.parametrize("name", method_names())
def test_every_method_with_what_surrounds_it(name):
    model = proxyclip.load("mini", method=name, area=0.2, multiple=0, refine="pamr")
    image = torch.randint(256, (48, 72, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    labels = model.segment(image, ["sky", "sea", "car", "grass"]).labels
    shares = [(labels == index).sum() for index in (1, 2, 3)]
    assert all(share == 0 or share > 0.05 * sum(shares) for share in shares)
    assert model.settings()["area"] == 0.2


def test_whole_images_in_one_or_two_steps():
    image = torch.randint(256, (48, 72, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).numpy()
    once, twice = (
        proxyclip.load("mini", method="clip", crop=0, short_side=80, two_steps=two_steps).segment(
            image, ["sky", "sea"], probabilities=["sky"]
        )
        for two_steps in (False, True)
    )
    difference = abs(once.probabilities["sky"] - twice.probabilities["sky"]).max()
    assert 1e-6 < difference < 0.2
    with pytest.raises(InputError, match="two_steps is about whole images: choose crop 0"):
        plan("mini", method="clip", two_steps=True)


SIZES = [(40, 24), (16, 64), (27, 70)]  # 5 × 3 patches; 2 × 8, as many as in the position table; no whole patches
CASES = [
    ("sclip", {}),
    ("clearclip", {}),
    *[("clearclip", {"attention": pair, "residual": pair != "vv"}) for pair in ("qq", "kk", "vv", "qk")],
    ("naclip", {}),
    ("naclip", {"std": 0.7, "residual": True}),
    ("naclip", {"std": 0.0}),
    ("gem", {}),
    ("gem", {"blocks": 3, "iterations": 0}),
    ("gem", {"blocks": 1, "iterations": 3, "sharpness": 2.5}),
]


@pytest.fixture(scope="module")
def clip():
    """Three blocks whose attention is far from uniform."""
    model = tiny_clip.clip(vision={"layers": 3})
    for block in model.blocks:
        block.attn.in_proj_weight.mul_(2)
        block.attn.in_proj_bias.mul_(2)
    return model


def model(name, clip, **options):
    return tiny_clip.model(name, clip=clip, vfm=object(), **options)


def pictures(size, batch=2):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def softmax(logits):
    """Of each row of (T, T)."""
    rows = []
    for row in logits.tolist():
        highest = max(row)
        exponentials = [math.exp(logit - highest) for logit in row]
        total = sum(exponentials)
        rows.append([value / total for value in exponentials])
    return torch.tensor(rows)


def neighbourhood(grid, std):
    """(T, T), token by token; the class token has no place."""
    rows, columns = grid
    places = [None, *((y, x) for y in range(rows) for x in range(columns))]
    added = torch.zeros(len(places), len(places))
    for i, here in enumerate(places):
        for j, there in enumerate(places):
            if here and there and std:
                added[i, j] = math.exp(-((here[0] - there[0]) ** 2 + (here[1] - there[1]) ** 2) / (2 * std**2))
    return added


def weights(name, query, key, value, grid, attention="qq", residual=False, std=5.0):
    """(T, T) of one head: what each token takes from which."""
    scale = query.shape[1] ** -0.5
    if name == "sclip":
        return softmax(scale * query @ query.T) + softmax(scale * key @ key.T)
    if name == "clearclip":
        left, right = ({"q": query, "k": key, "v": value}[letter] for letter in attention)
        return softmax(scale * left @ right.T)
    return softmax(scale * key @ key.T + neighbourhood(grid, std))


def of_heads(block, tokens):
    """Queries, keys and values (T, d) of each head, from tokens (T, D) as they enter a block."""
    layer = block.attn
    normed = F.layer_norm(tokens, tokens.shape[1:], block.ln_1.weight, block.ln_1.bias)
    parts = (normed @ layer.in_proj_weight.T + layer.in_proj_bias).chunk(3, dim=1)
    return normed, list(zip(*(part.chunk(layer.num_heads, dim=1) for part in parts), strict=True))


def projected(block, mixed):
    return torch.cat(mixed, dim=1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def slow_last_block(name, clip, image, **options):
    """(N, E) of one image (3, H, W)."""
    block, grid = clip.blocks[-1], clip.grid(image)
    tokens = clip.before_last_block(image[None])[0]
    _, parts = of_heads(block, tokens)
    found = projected(block, [weights(name, *part, grid, **options) @ part[2] for part in parts])
    if name == "sclip" or options.get("residual"):
        found = tokens + found
        found = found + block.mlp(block.ln_2(found))
    return clip.visual.ln_post(found)[1:] @ clip.visual.proj


def unit(vectors):
    return torch.stack([vector / vector.norm() for vector in vectors])


def slow_gem(clip, image, blocks=2, iterations=1, sharpness=None):
    """(N, E) of one image (3, H, W)."""
    visual, (rows, columns) = clip.visual, clip.grid(image)
    patches = visual.conv1(clip.normalise(image[None]))[0].flatten(1).T  # (N, D)
    table = visual.positional_embedding[1:].T.unflatten(1, (4, 4))[None]  # (1, D, 4, 4)
    places = F.interpolate(table, (rows, columns), mode="bicubic", antialias=True)[0].flatten(1).T  # (N, D)
    first = visual.class_embedding + visual.positional_embedding[0]
    tokens = visual.ln_pre(torch.cat([first[None], patches + places]))
    for index, block in enumerate(clip.blocks):
        if index == len(clip.blocks) - blocks:
            dense = tokens
        if index >= len(clip.blocks) - blocks:
            normed, parts = of_heads(block, tokens)
            factor = sharpness or sum(row.norm() for row in normed) / len(normed) / parts[0][0].shape[1] ** 0.5
            mixed = []
            for query, key, value in parts:
                total = 0
                for vectors in map(unit, (query, key, value)):
                    for _ in range(iterations):
                        vectors = unit(softmax(factor * vectors @ vectors.T) @ vectors)
                    total = total + softmax(factor * vectors @ vectors.T) @ value
                mixed.append(total / 3)
            dense = dense + projected(block, mixed)
        tokens = block(tokens[None])[0]  # open_clip's own
    return visual.ln_post(dense)[1:] @ visual.proj


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@torch.inference_mode()
def test_the_slow_way(clip, name, options, size):
    images = pictures(size)
    found = model(name, clip, **options).embed(images)  # (B, E, h, w)
    assert found.shape[-2:] == clip.grid(images)
    for image, patches in zip(images, found, strict=True):
        slow = slow_gem(clip, image, **options) if name == "gem" else slow_last_block(name, clip, image, **options)
        torch.testing.assert_close(patches.flatten(1).T, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["sclip", "clearclip", "naclip", "gem"])
@torch.inference_mode()
def test_an_image_s_scores_do_not_depend_on_the_batch_or_on_what_was_scored_before(clip, name):
    method, images, text = (
        model(name, clip),
        pictures((40, 24), 3),
        unit(torch.randn(4, 16, generator=torch.Generator().manual_seed(5))),
    )
    together = method.window_scores(images, text)
    method.window_scores(pictures((24, 40)), text)
    for image, expected in zip(images, together, strict=True):
        torch.testing.assert_close(method.window_scores(image[None], text)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sclip", "clearclip", "naclip", "gem"])
@torch.inference_mode()
def test_half_precision(clip, name, monkeypatch):
    """A bias of another type would cost the fused kernels of accelerators."""
    types, attend = set(), torch.nn.functional.scaled_dot_product_attention

    def noted(query, key, value, attn_mask=None, scale=None):
        types.update(part.dtype for part in (query, key, value, attn_mask) if part is not None)
        return attend(query, key, value, attn_mask=attn_mask, scale=scale)

    images, text = pictures((40, 24)), unit(torch.randn(4, 16, generator=torch.Generator().manual_seed(5)))
    exact = model(name, clip).window_scores(images, text)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    for dtype in (torch.bfloat16, torch.float16):
        types.clear()
        half = model(name, deepcopy(clip)).set_precision(dtype)
        found = half.window_scores(images, text)
        assert types == {dtype}
        assert found.dtype == torch.float32 and half.embed(images).dtype == dtype
        torch.testing.assert_close(found, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize(("rows", "columns", "std"), [(5, 7, 5.0), (1, 3, 0.5), (4, 2, 1.5)])
def test_omega_token_by_token(rows, columns, std):
    torch.testing.assert_close(omega(rows, columns, std), neighbourhood((rows, columns), std), atol=1e-6, rtol=0)


def test_gem_runs_beside_half_of_the_blocks():
    for depth, expected in ((1, 1), (2, 1), (5, 3)):
        method = model("gem", tiny_clip.clip(vision={"layers": depth}))
        assert len(list(method.streams(pictures((16, 24))))) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clearclip", {"attention": "kq"}, "attention must be one of 'qq', 'kk', 'vv', 'qk', not 'kq'"),
        ("naclip", {"std": -1.0}, "std is -1.0; choose the width of a neighbourhood in patches, or 0 for none"),
        ("gem", {"blocks": 0}, "blocks is 0; choose a number of last blocks, at least 1"),
        ("gem", {"iterations": -1}, "iterations is -1; choose a number from 0 to 100"),
        ("gem", {"iterations": 101}, "iterations is 101; choose a number from 0 to 100"),
        ("gem", {"sharpness": 0}, "sharpness is 0.0; it must be positive"),
        ("naclip", {"logit_scale": 0.0}, "logit_scale is 0.0; it must be positive"),
    ],
)
def test_mistakes_in_options(name, options, message):
    with pytest.raises(InputError) as error:
        make_options(find_method(name).Options, options, f"method {name}")
    assert str(error.value) == message


def test_gem_with_more_blocks_than_there_are():
    gem = find_method("gem")
    for blocks in (None, 1, 3):
        gem.Method.check(gem.Options(blocks=blocks), depth=3, patch_size=16)
    with pytest.raises(InputError, match="blocks is 4, but this CLIP has 3; choose at most 3"):
        gem.Method.check(gem.Options(blocks=4), depth=3, patch_size=16)
