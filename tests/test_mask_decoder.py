"""The mask decoder against attention that is computed head by head, one image at a time."""

import pytest
import torch
import torch.nn.functional as F

from heads.mask_decoder import MaskDecoder, RelationshipDescriptor
from proxyclip.backbones.checkpoints import fixed_seed
from proxyclip.errors import InputError

WIDTH, HEADS = 12, 3


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decoder(layers: int = 3, dropout: float = 0.1) -> MaskDecoder:
    """With layers that differ, and norms that are not the identity."""
    with fixed_seed():
        made = MaskDecoder(WIDTH, layers, HEADS, dropout)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
    return made.eval()


def plain_masks(decoder, queries, memory):
    """(K, E), (M, E) -> (K, M)."""
    for attention, update in zip(decoder.attentions, decoder.updates, strict=True):
        mixed = []
        for scores, columns in plain_scores(attention, queries, memory):
            mixed.append(scores.softmax(dim=1) @ attention.value(memory)[:, columns])
        queries = update.norm_attention(queries + attention.projection(torch.cat(mixed, dim=1)))
        queries = update.norm_network(queries + update.narrow(F.relu(update.widen(queries))))
    return torch.stack([scores for scores, _ in plain_scores(decoder.masks, queries, memory)]).mean(0)


def plain_scores(attention, queries, memory):
    """Of each head the scores (K, M) before the softmax, and the columns that belong to the head."""
    size = WIDTH // HEADS
    for head in range(HEADS):
        columns = slice(head * size, (head + 1) * size)
        yield attention.query(queries)[:, columns] @ attention.key(memory)[:, columns].T / size**0.5, columns


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_masks_are_the_scores_of_the_last_layer(layers):
    queries, memory = random(2, 5, WIDTH), random(2, 7, WIDTH, seed=1)
    made = decoder(layers)
    with torch.no_grad():
        masks = made(queries, memory)
        for image in range(2):
            expected = plain_masks(made, queries[image], memory[image])
            torch.testing.assert_close(masks[image], expected, rtol=1e-5, atol=1e-5)
    assert masks.std() > 0.1


def test_layers_start_alike():
    made = MaskDecoder(WIDTH, 3, HEADS, 0.1)
    for modules in (made.attentions, made.updates):
        first, second = (module.state_dict() for module in modules)
        assert all(torch.equal(first[name], second[name]) for name in first)
    for part in ("query", "key"):
        assert torch.equal(getattr(made.masks, part).weight, getattr(made.attentions[0], part).weight)
    weights = {id(parameter) for parameter in made.parameters()}
    assert len(weights) == len([*made.state_dict()])  # alike, but not shared


def test_dropout_is_for_training_only():
    queries, memory = random(2, 5, WIDTH), random(2, 7, WIDTH, seed=1)
    for dropout in (0.5, 0.0):
        made = decoder(dropout=dropout)
        for training in (True, False):
            made.train(training)
            with torch.no_grad():
                same = torch.equal(made(queries, memory), made(queries, memory))
            assert same == (dropout == 0 or not training)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="decoder_heads 5 does not divide the width 12"):
        MaskDecoder(WIDTH, 3, 5, 0.1)


@pytest.mark.parametrize("prompts", [(), (2,)])
def test_queries_know_the_image(prompts):
    """Of each class, or of each of its prompts: a projection of [image * text, text]."""
    descriptor = RelationshipDescriptor(WIDTH)
    image, text = random(3, WIDTH), random(4, *prompts, WIDTH, seed=1)
    queries = descriptor(image, text)
    assert queries.shape == (3, 4, *prompts, WIDTH)
    for index in range(3):
        for place in torch.cartesian_prod(*map(torch.arange, (4, *prompts))).reshape(-1, 1 + len(prompts)).tolist():
            own = text[tuple(place)]
            expected = descriptor.projection(torch.cat([image[index] * own, own]))
            torch.testing.assert_close(queries[(index, *place)], expected)
