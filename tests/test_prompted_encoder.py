"""The prompted image encoder against the same steps with explicit attention, one image at a time."""

import pytest
import tiny_head
import torch
import torch.nn.functional as F
from step_by_step import clip_block, normalised

from heads.prompted_encoder import PromptedEncoder
from proxyclip.backbones.checkpoints import fixed_seed
from proxyclip.errors import InputError

PROMPTS, BLOCKS = 3, 4
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def visual():
    return tiny_head.four_blocks().visual


def encoder(visual, prompt_blocks, image_size=32, dropout=0.0) -> PromptedEncoder:
    with fixed_seed():
        made = PromptedEncoder(visual, PROMPTS, prompt_blocks, dropout, image_size)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
    return made.eval()


def plain(encoder, visual, image, prompts_of_block, norm, side):
    """Tokens after each block (T, D) and unit vectors of all tokens (T, E) of one image (3, H, W).

    prompts_of_block: for each block the row of prompts that replaces those before it, "keep", or "none".
    """
    patches = visual.conv1(normalised(image, *IMAGENET)[None])[0]  # (D, h, w)
    table = visual.positional_embedding[1:].T.reshape(1, -1, *visual.grid_size)
    for size in ((side, side), patches.shape[1:]):
        table = F.interpolate(table, size, mode="bilinear")
    class_token = visual.class_embedding + (visual.positional_embedding[0] + visual.class_embedding)
    x = visual.ln_pre(torch.cat([class_token[None], (patches + table[0]).flatten(1).T]))
    image_tokens, steps = x[1:], []
    cls, held = x[:1], x[:0]
    for block, choice in zip(visual.transformer.resblocks, prompts_of_block, strict=True):
        if choice != "keep":
            held = x[:0] if choice == "none" else encoder.projection(encoder.prompts[choice])
        x = clip_block(block, torch.cat([cls, held, image_tokens]))
        cls, held, image_tokens = x[:1], x[1 : 1 + len(held)], x[1 + len(held) :]
        steps.append(x)
    return steps, F.normalize(visual.ln_post(normed(encoder, x) if norm else x) @ visual.proj, dim=1)


def normed(encoder, tokens):
    return F.layer_norm(tokens, tokens.shape[-1:], encoder.norm.weight, encoder.norm.bias, eps=1e-6)


MODES = {  # prompt_blocks -> the prompts that each block sees, and whether there is a norm at the end
    None: ([0, 1, 2, 3], True),
    3: ([0, 1, 2, 3], True),
    1: ([0, 1, "none", "none"], True),
    0: ([0, "keep", "keep", "keep"], False),
    -1: (["none", "none", "none", 0], True),
    -4: ([0, 1, 2, 3], True),
}


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (45, 30)])  # the last one with rows and columns to spare
@pytest.mark.parametrize("prompt_blocks", MODES)
@torch.no_grad()
def test_encoder(visual, prompt_blocks, size):
    side = 5  # of the grid that training starts from, between CLIP's 4 x 4 and that of the image
    made, images = encoder(visual, prompt_blocks, image_size=8 * side), tiny_head.images(2, *size)
    encoded = made(visual, images, levels=(0, 2) if made.norm else ())
    grid = size[0] // 8, size[1] // 8
    assert encoded.patches.shape == (2, 16, *grid)
    prompts_of_block, norm = MODES[prompt_blocks]
    for index, image in enumerate(images):
        steps, joint = plain(made, visual, image, prompts_of_block, norm, side)
        for found, expected in zip(made.walk(visual, images), steps, strict=True):
            if not made.keep:  # only those that later blocks see
                expected = torch.cat([expected[:1], expected[-grid[0] * grid[1] :]])
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoded.image[index], joint[0], rtol=1e-4, atol=1e-5)
        patches = joint[-grid[0] * grid[1] :].T.unflatten(1, grid)
        torch.testing.assert_close(encoded.patches[index], patches, rtol=1e-4, atol=1e-5)
        for found, block in zip(encoded.levels, (0, 2), strict=bool(norm)):
            expected = normed(made, steps[block])[-grid[0] * grid[1] :]
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)


def test_prompts_start_within_the_published_bound(visual):
    made = PromptedEncoder(visual, 50, None, 0.1, 32)
    bound = (6 / (3 * 8 * 8 + 32)) ** 0.5
    assert made.prompts.shape == (BLOCKS, 50, 32)
    assert 0.95 * bound < made.prompts.abs().max() <= bound


def test_prompts_are_dropped_in_training_only(visual):
    made, images = encoder(visual, None, dropout=0.5), tiny_head.images()
    with torch.no_grad():
        assert torch.equal(made(visual, images).patches, made(visual, images).patches)
        made.train()
        assert not torch.equal(made(visual, images).patches, made(visual, images).patches)


@pytest.mark.parametrize("prompt_blocks", [4, -5])
def test_too_many_prompt_blocks(visual, prompt_blocks):
    with pytest.raises(InputError, match=f"prompt_blocks is {prompt_blocks}; .* this CLIP has 4 blocks"):
        PromptedEncoder(visual, PROMPTS, prompt_blocks, 0.1, 32)


def test_image_size_below_one_patch(visual):
    with pytest.raises(InputError, match="image_size 7 is smaller than one patch of 8 pixels"):
        PromptedEncoder(visual, PROMPTS, None, 0.1, 7)
