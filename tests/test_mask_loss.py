"""The loss of the heads against one-hot maps of all classes at full size, and what else is made of mask logits."""

import pytest
import torch
import torch.nn.functional as F
from host_traffic import DEVICE, host_traffic

from heads import losses
from heads.losses import VOID, mask_loss, number_of_masks, pixel_accuracy, pseudo_labels

VOIDS = ("negative", "masked")
UNLABELLED = -2


def plain_loss(logits, labels, mask_weight, dice_weight, void):
    """Both losses in float64, from the definitions of the papers."""
    full = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear", align_corners=False)  # (B, K, H, W)
    classes = torch.arange(full.shape[1])[:, None, None]
    targets = (labels[:, None] == classes).double()  # (B, K, H, W)
    counted = (labels[:, None] >= 0).double() if void == "masked" else torch.ones(len(labels), 1, 1, 1).double()
    masks = max(1.0, targets.flatten(2).amax(2).sum().item())
    p = full.sigmoid()
    p_of_truth = torch.where(targets == 1, p, 1 - p)
    alpha = torch.where(targets == 1, 0.25, 0.75)
    focal = alpha * (1 - p_of_truth) ** 2 * -p_of_truth.log() * counted
    dice = 0.0
    for scores, target, keep in zip(p * counted, targets, counted.expand_as(p), strict=True):
        for score, truth, kept in zip(scores, target, keep, strict=True):
            if truth.any():
                dice = dice + 1 - (2 * (score * truth * kept).sum() + 1) / (score.sum() + truth.sum() + 1)
    focal = focal.mean((2, 3)).sum()
    return {"loss_mask": mask_weight * focal / masks, "loss_dice": dice_weight * dice / masks}


def sample(batch=2, classes=4, grid=(3, 5), size=(17, 12), dtype=torch.float32, seed=0):
    """Logits, and labels in which the first image lacks the last class, with void and unlabelled pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, classes, *grid, generator=generator, dtype=dtype)
    labels = torch.randint(UNLABELLED, classes, (batch, *size), generator=generator)
    labels[0][labels[0] == classes - 1] = 0
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("size", [(17, 12), (3, 5), (2, 3)])  # larger than the logits, as large, smaller
def test_values_and_gradients(void, size):
    logits, labels = sample(size=size)
    found, expected = (loss(logits, labels, 20.0, 3.0, void) for loss in (mask_loss, plain_loss))
    for name in ("loss_mask", "loss_dice"):
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5), name
        gradients = (torch.autograd.grad(loss[name], logits, retain_graph=True)[0] for loss in (found, expected))
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("tile", [1, 100, 2000])  # one row, some rows, two of three images of 17 × 12 pixels
def test_tiles_make_no_difference(void, tile, monkeypatch):
    logits, labels = sample(batch=3)
    expected = mask_loss(logits, labels, void=void)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in expected.values()]
    monkeypatch.setattr(losses, "CPU_TILE", tile)
    found = mask_loss(logits, labels, void=void)
    for loss, same, gradient in zip(found.values(), expected.values(), gradients, strict=True):
        assert loss.item() == pytest.approx(same.item(), rel=1e-6)
        torch.testing.assert_close(torch.autograd.grad(loss, logits, retain_graph=True)[0], gradient)
    with torch.no_grad():
        assert mask_loss(logits, labels, void=void) == found


@pytest.mark.parametrize("void", VOIDS)
def test_gradients_in_float64(void):
    logits, labels = sample(size=(7, 6), dtype=torch.float64)

    def losses(logits):
        return tuple(mask_loss(logits, labels, void=void).values())

    assert torch.autograd.gradcheck(losses, logits)


def test_gradients_of_confident_predictions_are_finite():
    logits, labels = sample()
    with torch.no_grad():
        logits *= 1000
    losses = mask_loss(logits, labels)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values()) and logits.grad.isfinite().all()


@pytest.mark.parametrize("void", VOIDS)
def test_without_any_label(void):
    logits, labels = sample()
    losses = mask_loss(logits, torch.full_like(labels, VOID), void=void)
    expected = plain_loss(logits, torch.full_like(labels, VOID), 100.0, 1.0, void)
    assert losses["loss_dice"] == 0
    assert losses["loss_mask"].item() == pytest.approx(expected["loss_mask"].item(), rel=1e-5)
    assert (losses["loss_mask"] > 0) == (void == "negative")
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all() and bool(logits.grad.any()) == (void == "negative")


@pytest.mark.parametrize("void", VOIDS)
def test_pixels_without_a_label_are_alike(void):
    """Which class an unlabelled pixel might have cannot be seen in the loss."""
    logits, labels = sample()
    other = torch.where(labels == UNLABELLED, VOID, labels)
    assert not torch.equal(labels, other)
    assert mask_loss(logits, labels, void=void) == mask_loss(logits, other, void=void)


def test_masked_pixels_have_no_influence():
    logits, labels = sample(grid=(17, 12))
    changed = torch.where((labels < 0)[:, None], logits + 5, logits)
    for name, value in mask_loss(changed, labels, void="masked").items():
        assert value.item() == pytest.approx(mask_loss(logits, labels, void="masked")[name].item(), rel=1e-6)
        assert value.item() != pytest.approx(mask_loss(changed, labels)[name].item(), rel=1e-3)


def test_half_precision_is_computed_in_float32():
    logits, labels = sample()
    half = logits.detach().bfloat16().requires_grad_()
    losses = mask_loss(half, labels)
    assert losses == mask_loss(half.float(), labels) and losses["loss_mask"].dtype == torch.float32
    sum(losses.values()).backward()
    assert half.grad.dtype == torch.bfloat16


def test_number_of_masks():
    _, labels = sample()
    assert number_of_masks(labels, 4) == 3 + 4
    assert number_of_masks(torch.full_like(labels, VOID), 4) == 1
    logits = torch.zeros(2, 4, 3, 5)
    assert (
        mask_loss(logits, labels, masks=torch.tensor(14.0))["loss_mask"] == mask_loss(logits, labels)["loss_mask"] / 2
    )


def test_number_of_masks_is_the_mean_over_ranks(monkeypatch):
    """Here with another rank whose batch has 11."""
    _, labels = sample()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(11))
    assert number_of_masks(labels, 4) == (7 + 11) / 2


def test_pixel_accuracy():
    logits, labels = sample()
    found = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False).argmax(1)
    labelled = labels >= 0
    expected = 100 * (found == labels)[labelled].double().mean()
    assert pixel_accuracy(logits, labels).item() == pytest.approx(expected.item())
    assert 0 < expected < 100
    assert pixel_accuracy(logits, torch.full_like(labels, VOID)) == 100


def test_pseudo_labels():
    logits, labels = sample()
    unseen = torch.tensor([3, 1])
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    found = pseudo_labels(logits, labels, unseen, UNLABELLED)
    better = torch.where(full[:, 3] >= full[:, 1], 3, 1)
    assert torch.equal(found, torch.where(labels == UNLABELLED, better, labels))
    assert {1, 3} <= {*found[labels == UNLABELLED].tolist()} and (found == VOID).any()
    assert (labels == UNLABELLED).any()  # the argument is unchanged
    assert not found.requires_grad and found.dtype == labels.dtype


def test_an_accelerator_is_not_waited_for():
    """Nor is anything copied to it, once the sizes are known."""
    logits = torch.zeros(2, 4, 3, 5, device=DEVICE, requires_grad=True)
    labels = torch.zeros(2, 17, 12, dtype=torch.int64, device=DEVICE)
    sum(mask_loss(logits, labels).values()).backward()  # takes the weights of upsampling from the host
    with host_traffic() as found:
        sum(mask_loss(logits, labels).values()).backward()
    assert found == []
