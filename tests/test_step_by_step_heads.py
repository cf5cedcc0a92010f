"""The heads and their loss against the slow and obvious way of tests/step_by_step_heads.py, on random weights."""

import pytest
import step_by_step_heads
import tiny_clip
import torch
import torch.nn.functional as F

from heads import find_head, head_names
from heads.losses import mask_loss

OWN = {"cascade_clip": {"levels": (0, 1), "group_size": 1}}  # one group a level: the tiny CLIP has three blocks
CLASSES = tuple(f"thing {index}" for index in range(5))


def build(name, **options):
    """A head on a tiny CLIP of 3 blocks with 4 × 4 positions; the same weights every time."""
    module, clip = find_head(name), tiny_clip.clip(vision={"layers": 3})
    own = {"image_size": 48, "crop": 48, "stride": 32, "prompts": 3, "decoder_heads": 4, "dropout": 0.0}
    torch.manual_seed(0)
    head = module.Head(clip, module.Options(**own | OWN.get(name, {}) | options), CLASSES, CLASSES[:3])
    with torch.no_grad():  # layers that are copies of each other hide what is taken from where
        for parameter in head.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return head.train()


def batch(head, size=(40, 56)):
    """Images (2, 3, H, W), labels (2, H, W) with void pixels, and text embeddings of the head's kind."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *size, generator=generator)
    coarse = torch.randint(-2, 4, (2, 1, 5, 7), generator=generator).float()  # the last class is in no image
    labels = F.interpolate(coarse, size)[:, 0].long()
    prompts = () if head.AVERAGE_PROMPTS else (2,)
    text = torch.randn(5, *prompts, head.clip.visual.proj.shape[1], generator=generator)
    return images, labels, F.normalize(text, dim=-1)


def gradients(head, loss):
    trained = {name: value for name, value in head.named_parameters() if value.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))


def compare(head):
    images, labels, text = batch(head)
    ours, plain = head(images, text), step_by_step_heads.predict(head, images, text)
    assert ours.keys() == plain.keys()
    for name, logits in plain.items():
        assert logits.std() > 1e-3  # otherwise the logits would be no test
        torch.testing.assert_close(ours[name], logits, atol=1e-5, rtol=1e-4)
    ours = sum(sum(mask_loss(logits, labels).values()) for logits in ours.values())
    plain = step_by_step_heads.loss(plain, labels)
    torch.testing.assert_close(ours, plain, atol=0, rtol=1e-5)
    ours, plain = gradients(head, ours), gradients(head, plain)
    largest = {name: gradient.abs().max().item() for name, gradient in plain.items()}
    for name, gradient in plain.items():
        # A softmax does not change with the bias of its keys: that gradient is rounding alone.
        zero = name.endswith("key.bias") and "attentions" in name and head.method != "OTSeg"
        assert (largest[name] > 1e-5 * max(largest.values())) != zero, name
        tolerance = 1e-5 * max(largest.values()) if zero else 1e-4 * largest[name]
        torch.testing.assert_close(ours[name], gradient, atol=tolerance, rtol=1e-3, msg=name)


@pytest.mark.parametrize("name", sorted({*head_names()} - {"cat_seg"}))  # which tests/test_step_by_step_cat_seg.py has
def test_predictions_losses_and_gradients(name):
    compare(build(name))


@pytest.mark.parametrize("blocks", [0, 1, -1, -3])
def test_prompts_in_some_blocks(blocks):
    compare(build("zegclip", prompt_blocks=blocks))
