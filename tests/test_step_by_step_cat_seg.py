"""CAT-Seg against the slow and obvious one of tests/step_by_step_cat_seg.py, on random weights."""

import pytest
import step_by_step_cat_seg as slow
import tiny_cat_seg
import torch
import torch.nn.functional as F

from heads.published import own_weights
from proxyclip.labels import decide_labels

VARIANTS = {
    "padded": {},
    "full attention": {"attention": "full"},
    "places of one patch": {"pooling": 1},
    "pooled in evaluation": {"evaluation_pooling": 2},
    "no padding": {"pad_len": 0},
    "full attention without padding": {"attention": "full", "pad_len": 0},
    "as many classes as pad_len": {"pad_len": 5, "attention": "full"},
    "more classes than pad_len": {"pad_len": 3},
    "one window": {"window": 4},
    "two layers": {"layers": 2},
    "three prompts": {"templates": ("a {}", "one {}", "{}")},
    "prompts in CLIP": {"finetune": "prompt", "prompts": 2},
    "all of CLIP": {"finetune": "full"},
    "frozen CLIP": {"finetune": "frozen"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_gradients_of_the_head(name):
    head = tiny_cat_seg.head(**{"layers": 1} | VARIANTS[name]).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 40, 56, generator=generator)
    text = F.normalize(torch.randn(5, len(head.templates), 16, generator=generator), dim=-1)
    weights = torch.randn(2, 5, 16, 16, generator=generator)
    state = {key: value.requires_grad_() for key, value in tiny_cat_seg.published_state(head).items()}
    pixels = slow.resized(slow.normalised(images), (32, 32))

    plain = slow.logits(state, pixels, text, **tiny_cat_seg.arguments(head))
    (ours,) = head(images, text).values()
    assert plain.std() > 0.1  # otherwise the logits would be no test
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    gradients = gradients_of(head, ours, weights), slow_gradients(head, state, plain, weights)
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[1].items():
        tolerance = 1e-4 * expected.abs().max().item() + 1e-5
        torch.testing.assert_close(gradients[0][key], expected, atol=tolerance, rtol=1e-3, msg=key)

    with torch.no_grad():
        plain = slow.logits(state, pixels, text, **tiny_cat_seg.arguments(head.eval()))
        (ours,) = head(images, text).values()
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def gradients_of(head, logits, weights):
    """Of all that the head trains, by name."""
    trained = {name: value for name, value in head.named_parameters() if value.requires_grad}
    total = (weights * logits)[logits != slow.NOT_AGGREGATED].sum()
    found = torch.autograd.grad(total, trained.values(), materialize_grads=True)
    return dict(zip(trained, found, strict=True))


def slow_gradients(head, state, logits, weights):
    """The same from published weights."""
    total = (weights * logits)[logits != slow.NOT_AGGREGATED].sum()
    gradients = dict(zip(state, torch.autograd.grad(total, state.values(), materialize_grads=True), strict=True))
    if head.options.finetune == "attention":  # queries and values are trained, keys are not
        gradients |= {name: torch.zeros_like(value) for name, value in gradients.items() if ".k_proj_" in name}
    return {name: value for name, value in own_weights(gradients, "cat_seg").items() if name in head.trained()}


def test_windows_and_the_global_view_of_the_head():
    """Crops are not of the size that CLIP sees."""
    head = tiny_cat_seg.head(square=44, crop=36, stride=8)
    choices = {"square": 44, "crop": 36, "stride": 8, "side": 32} | tiny_cat_seg.arguments(head)
    compare_images(head, (40, 60), slow.windows_and_global_view, choices)


def test_whole_image_of_the_head():
    """Without padding, which the published code leaves in the result."""
    head = tiny_cat_seg.head(crop=0)
    compare_images(head, (64, 96), slow.whole_image, {"side": 32} | tiny_cat_seg.arguments(head))


@torch.no_grad()
def compare_images(head, image_size, plain, choices):
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(3, *image_size, generator=generator)
    text = F.normalize(torch.randn(5, 1, 16, generator=generator), dim=-1)
    expected = plain(tiny_cat_seg.published_state(head), image, text, (50, 70), **choices)
    assert expected.std() > 0.05
    found = decide_labels(
        head.image_scores(image, text), (50, 70), head.label_rule, torch.arange(5), keep=range(5)
    ).class_scores
    torch.testing.assert_close(torch.stack([found[index] for index in range(5)]), expected, atol=1e-5, rtol=1e-4)
