"""CAT-Seg's loss against one-hot maps of all classes at full size."""

import pytest
import torch
import torch.nn.functional as F
from test_mask_loss import UNLABELLED, VOIDS, sample

from heads import losses
from heads.losses import VOID, cross_entropy_loss


def plain_loss(logits, labels, void):
    """In float64, from the definition."""
    full = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear", align_corners=False)  # (B, K, H, W)
    targets = (labels[:, None] == torch.arange(full.shape[1])[:, None, None]).double()  # (B, K, H, W)
    counted = (labels >= 0) if void == "masked" else torch.ones_like(labels, dtype=torch.bool)
    losses = F.binary_cross_entropy_with_logits(full, targets, reduction="none").mean(1)  # (B, H, W)
    return losses[counted].sum() / max(1, counted.sum())


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("size", [(17, 12), (3, 5), (2, 3)])  # larger than the logits, as large, smaller
def test_values_and_gradients(void, size):
    logits, labels = sample(size=size)
    found, expected = (loss(logits, labels, void) for loss in (cross_entropy_loss, plain_loss))
    assert found.dtype == torch.float32 and found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("tile", [1, 100, 2000])  # one row, some rows, all rows of 17 × 12 pixels
def test_tiles_make_no_difference(void, tile, monkeypatch):
    logits, labels = sample(batch=3)
    expected = cross_entropy_loss(logits, labels, void)
    (gradient,) = torch.autograd.grad(expected, logits)
    monkeypatch.setattr(losses, "CPU_TILE", tile)
    found = cross_entropy_loss(logits, labels, void)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)
    with torch.no_grad():
        assert cross_entropy_loss(logits, labels, void) == found


@pytest.mark.parametrize("void", VOIDS)
def test_gradients_in_float64(void):
    logits, labels = sample(size=(7, 6), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda logits: cross_entropy_loss(logits, labels, void), logits)


@pytest.mark.parametrize("void", VOIDS)
def test_without_any_label(void):
    logits, labels = sample()
    loss = cross_entropy_loss(logits, torch.full_like(labels, VOID), void)
    loss.backward()
    assert (loss > 0) == bool(logits.grad.any()) == (void == "negative")
    assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("void", VOIDS)
def test_pixels_without_a_label_are_alike(void):
    logits, labels = sample()
    other = torch.where(labels == UNLABELLED, VOID, labels)
    assert not torch.equal(labels, other)
    assert cross_entropy_loss(logits, labels, void) == cross_entropy_loss(logits, other, void)


def test_masked_pixels_have_no_influence():
    logits, labels = sample(grid=(17, 12))
    changed = torch.where((labels < 0)[:, None], logits + 5, logits)
    found = [cross_entropy_loss(maps, labels, "masked").item() for maps in (logits, changed)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] != pytest.approx(cross_entropy_loss(changed, labels).item(), rel=1e-3)


def test_confident_and_half_precision_predictions():
    """The loss of bfloat16 logits is computed in float32, and does not overflow."""
    logits, labels = sample()
    half = (1000 * logits).detach().bfloat16().requires_grad_()
    loss = cross_entropy_loss(half, labels)
    assert loss == cross_entropy_loss(half.float(), labels) and loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    assert half.grad.dtype == torch.bfloat16 and half.grad.isfinite().all()


def test_labelled_pixels_are_counted_over_all_ranks(monkeypatch):
    """Here with another rank whose batch has none: the mean of both ranks' losses is that of all pixels."""
    logits, labels = sample()
    own = cross_entropy_loss(logits, labels, "masked")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)
    assert cross_entropy_loss(logits, labels, "masked").item() == pytest.approx(2 * own.item())
    assert cross_entropy_loss(logits, labels).item() == pytest.approx(plain_loss(logits, labels, "negative").item())
