"""What Cascade-CLIP adds: features of several blocks, and decoders for groups of them."""

import pytest
import tiny_clip
import tiny_head
import torch
import torch.nn.functional as F

from proxyclip.errors import InputError


@torch.no_grad()
def test_levels_of_cascade_clip():
    """By a random projection, or as CLIP itself would embed the tokens of these blocks if they were its last ones."""
    images = tiny_head.images(2, 24, 40)
    model = tiny_head.head("cascade_clip", layer_projection="clip")
    visual = model.clip.visual
    encoded = model.encoder(visual, images, model.options.levels)
    for feature, tokens in zip(model.features(encoded), encoded.levels, strict=True):
        expected = F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1).mT.unflatten(2, (3, 5))
        torch.testing.assert_close(feature, expected)
    official = tiny_head.head("cascade_clip")
    assert official.level_projections.std() == pytest.approx(32**-0.5, rel=0.1)
    assert all(torch.equal(norm.weight, torch.ones(32)) for norm in official.level_norms)


@torch.no_grad()
def test_decoders_of_cascade_clip():
    """One for each group of levels, on their weighted sum, and one for the last block; the sum of their masks."""
    clip = tiny_clip.clip(vision={"layers": 5})
    model = tiny_head.head("cascade_clip", clip=clip, levels=(0, 1, 2, 3), group_size=2)
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(5, 2, 16, 3, 5, generator=generator)
    image, text = torch.randn(2, 16, generator=generator), torch.randn(4, 16, generator=generator)
    (a, b), (c, d) = model.weights
    expected = 0
    for group, memory in enumerate((a * f[0] + b * f[1], c * f[2] + d * f[3], f[4])):
        queries = model.descriptors[group](image, text)
        expected = expected + model.decoders[group](queries, memory.flatten(2).mT).unflatten(2, (3, 5))
    torch.testing.assert_close(model.decode(tuple(f), image, text), expected)


def test_groups_start_with_a_bell_curve_that_ends_at_their_last_level():
    clip = tiny_clip.clip(vision={"layers": 7})
    options = tiny_head.HEADS["cascade_clip"].Options(**tiny_head.OPTIONS | {"levels": tuple(range(6))})
    model = tiny_head.HEADS["cascade_clip"].Head(clip, options, tiny_head.CLASSES, tiny_head.SEEN)
    assert model.weights.tolist() == [pytest.approx([0.13533528, 0.60653066, 1.0])] * 2


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"levels": (2, 1)}, "name different blocks in ascending order"),
        ({"levels": (1, 1)}, "name different blocks in ascending order"),
        ({"levels": (), "group_size": 1}, "name different blocks in ascending order"),
        ({"levels": (-1, 1)}, "counted from 0"),
        ({"levels": (1, 3)}, "the last of this CLIP's 4 blocks is always used"),
        ({"levels": (0, 1, 2)}, "group_size 2 does not divide the 3 levels"),
        ({"group_size": 0}, "group_size 0 does not divide the 2 levels"),
    ],
)
def test_wrong_levels(options, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_head.head("cascade_clip", **options)
