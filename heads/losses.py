"""The losses of heads: focal and dice loss (SegViT and its successors), and binary cross-entropy (CAT-Seg).

Lin et al., 2017 (focal loss, α = 0.25, γ = 2); Milletari et al., 2016 (dice loss).

No map of all classes at full resolution is ever in memory: gradients are in closed form, a tile at a time. Bilinear
upsampling is linear and acts on rows and columns separately: full = R · low · Cᵀ, and the gradient of `low` is
Rᵀ · (gradient of full) · C. So logits, probabilities and gradients at full resolution are needed for a few rows of a
few images at a time only, and a tile stays in a processor's cache. The gradient of the dice loss of a class is that of
its predicted area and of its hits, each times a number that is known once all tiles have been seen.

Shapes: B images, K classes, h × w the predictions, H × W the labels; in a tile r rows of b images that depend on n rows
of the predictions.
"""

from functools import lru_cache
from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

VOID = -1  # pixels without a label
ALPHA = 0.25
CPU_TILE, ACCELERATOR_TILE = 300_000, 100_000_000  # elements


def mask_loss(
    logits: Tensor,
    labels: Tensor,
    mask_weight: float = 100.0,
    dice_weight: float = 1.0,
    void: Literal["negative", "masked"] = "negative",
    masks: Tensor | None = None,
) -> dict[str, Tensor]:
    """{"loss_mask", "loss_dice"}, scalars, of logits (B, K, h, w) and labels (B, H, W), negative where there is none.

    loss_mask: the focal loss of all classes, summed over images and classes, averaged over pixels. loss_dice: summed
    over the classes present in each image. Both are divided by the number of masks, that is of pairs of image and
    present class; masks: that number, if known (default: of these labels, averaged over ranks).

    void: "negative" counts pixels without a label as pixels of no class, as all published runs do; "masked" leaves them
    out of both losses.
    """
    if masks is None:
        masks = number_of_masks(labels, logits.shape[1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    focal, dice = TiledLosses.apply(logits, shifted(labels), void == "masked", MaskSums)
    return {"loss_mask": mask_weight * focal / masks, "loss_dice": dice_weight * dice / masks}


def cross_entropy_loss(logits: Tensor, labels: Tensor, void: Literal["negative", "masked"] = "negative") -> Tensor:
    """Binary cross-entropy of logits (B, K, h, w), upsampled, and labels (B, H, W), negative where there is none.

    The mean over all classes and pixels, a scalar; void: see `mask_loss`. If pixels are left out, all ranks divide by
    the same number of pixels.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    (total,) = TiledLosses.apply(logits, shifted(labels), void == "masked", CrossEntropySums)
    pixels = averaged((labels >= 0).sum()) if void == "masked" else labels.numel()
    return total / (pixels * logits.shape[1])


def number_of_masks(labels: Tensor, classes: int) -> Tensor:
    """Pairs of image and present class, averaged over all ranks; at least 1."""
    return averaged(present_classes(labels, classes).sum())


def averaged(count: Tensor) -> Tensor:
    """The mean of a number over all ranks; at least 1."""
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count /= torch.distributed.get_world_size()
    return count.clamp(min=1)


def present_classes(labels: Tensor, classes: int) -> Tensor:
    """(B, K): 1.0 for each class that an image contains."""
    present = torch.zeros(len(labels), classes + 1, device=labels.device)
    return present.scatter_(1, shifted(labels).flatten(1), 1.0)[:, 1:]


def shifted(labels: Tensor) -> Tensor:
    """Labels plus one, 0 where there is none: an index into K + 1 classes."""
    return labels.long().clamp(min=VOID) + 1


@torch.no_grad()
def pixel_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Percentage of labelled pixels whose highest score is that of their class; 100 if none is labelled."""
    right = total = 0
    for scores, label in zip(logits.float(), labels, strict=True):
        full = F.interpolate(scores[None], label.shape, mode="bilinear", align_corners=False)[0]  # (K, H, W)
        right, total = right + ((full.argmax(0) == label) & (label >= 0)).sum(), total + (label >= 0).sum()
    return torch.where(total > 0, 100 * right / total.clamp(min=1), 100.0)


@torch.no_grad()
def pseudo_labels(logits: Tensor, labels: Tensor, unseen: Tensor, unlabelled: int) -> Tensor:
    """Labels (B, H, W) in which every pixel marked `unlabelled` has the unseen class with the highest score.

    unseen: (U,) indices of these classes. The transductive setting of Zhou et al., 2023, §3.5: no threshold on the
    score.
    """
    result = labels.clone()
    for index, scores in enumerate(logits.float()):
        full = F.interpolate(scores[None, unseen], labels.shape[-2:], mode="bilinear", align_corners=False)[0]
        # full: (U, H, W)
        result[index] = torch.where(labels[index] == unlabelled, unseen[full.argmax(0)].to(labels.dtype), labels[index])
    return result


class TiledLosses(torch.autograd.Function):
    """(B, K, h, w) logits and (B, H, W) targets, a class plus one or 0 for none -> losses (n,), summed over images.

    kind: `MaskSums` or `CrossEntropySums`, which add up what the losses are made of.
    """

    @staticmethod
    def forward(ctx, logits, target, leave_out_void, kind):
        needed = ctx.needs_input_grad[0]
        losses, gradients = [], []
        _, classes, height, width = logits.shape
        rows, columns = target.shape[1:]
        limit = CPU_TILE if logits.device.type == "cpu" else ACCELERATOR_TILE
        images = max(1, limit // (classes * rows * columns))
        down = bands(height, rows, max(1, limit // (images * classes * columns)), logits.dtype, logits.device)
        ((_, _, across),) = bands(width, columns, columns, logits.dtype, logits.device)  # (W, w)
        for part, labels in zip(logits.split(images), target.split(images), strict=True):
            low = (part @ across.T).permute(2, 0, 1, 3).contiguous()  # (h, b, K, W)
            sums = kind(low, needed)
            for band, near, weights in down:
                full = product(weights, low[near])  # (r, b, K, W)
                sums.add(full, labels[:, band].transpose(0, 1)[:, :, None], leave_out_void, near, weights)
            values, slopes = sums.losses(rows * columns)  # (n,), (n, h, b, K, W)
            losses.append(values)
            if needed:
                gradients.append((slopes @ across).permute(0, 2, 3, 1, 4))  # (n, b, K, h, w)
        ctx.save_for_backward(torch.cat(gradients, 1) if needed else None)
        return torch.stack(losses).sum(0)

    @staticmethod
    def backward(ctx, grad):
        (gradients,) = ctx.saved_tensors
        return (grad.view(-1, 1, 1, 1, 1) * gradients).sum(0), None, None, None


class MaskSums:
    """What focal and dice loss add up over the tiles of a few images.

    area: of each class the sum of its probabilities; hits: of those where it is the label; size: its labels, (b, K)
    each. slopes: derivatives of focal loss, area and hits by the logits, upsampled to full width only, (3, h, b, K, W).
    The focal loss is summed over images and classes and averaged over pixels, the dice loss summed over the classes
    present in each image.
    """

    def __init__(self, low: Tensor, with_slopes: bool):
        _, images, classes, _ = low.shape
        self.focal = low.new_zeros(())
        self.area, self.hits, self.size = low.new_zeros(3, images, classes)
        self.slopes = low.new_zeros(3, *low.shape) if with_slopes else None

    def add(self, x: Tensor, target: Tensor, leave_out_void: bool, near: slice, weights: Tensor) -> None:
        """One tile: logits (r, b, K, W), targets (r, b, 1, W)."""
        valid = (target > 0).to(x.dtype)  # (r, b, 1, W)
        own = (target - 1).clamp(min=0)
        p, surprise = x.sigmoid(), F.softplus(x)  # (r, b, K, W): probability and −log(1 − p)
        square = p * p
        # Every pixel as a negative of every class first, then corrected where it is a positive one.
        own_p, own_x = p.gather(2, own), x.gather(2, own)  # (r, b, 1, W)
        own_surprise, miss = surprise.gather(2, own), 1 - own_p
        positive = ALPHA * miss.square() * F.softplus(-own_x)
        correction = (positive - (1 - ALPHA) * own_p.square() * own_surprise) * valid
        void = (valid == 0) if leave_out_void else None
        counted = p if void is None else p.masked_fill(void, 0)
        negative = square * surprise
        negative = negative if void is None else negative.masked_fill_(void, 0)
        self.focal += (1 - ALPHA) * negative.sum() + correction.sum()
        self.area += counted.sum((0, 3))
        for total, value in ((self.hits, own_p * valid), (self.size, valid)):
            total += torch.zeros_like(x[:, :, :, 0]).scatter_add_(2, own[:, :, 0], value[:, :, 0]).sum(0)
        if self.slopes is None:
            return
        # The slope of p² · −log(1 − p) is p² (2 (1 − p) · −log(1 − p) + p); of −(1 − p)² log p it is
        # (1 − p)² (2 p log p − (1 − p)); of p it is p (1 − p).
        rest = 1 - p
        focal = surprise.mul_(rest).mul_(2).add_(p).mul_(square).mul_(1 - ALPHA)
        area = rest.mul_(p)
        if void is not None:
            focal, area = focal.masked_fill_(void, 0), area.masked_fill_(void, 0)
        wanted = -ALPHA * miss.square() * (2 * own_p * F.softplus(-own_x) + miss)
        unwanted = (1 - ALPHA) * own_p.square() * (2 * miss * own_surprise + own_p)
        focal.scatter_add_(2, own, (wanted - unwanted) * valid)
        hits = square.zero_().scatter_(2, own, own_p * miss * valid)
        for total, slope in zip(self.slopes, (focal, area, hits), strict=True):
            total[near] += product(weights.T, slope)

    def losses(self, pixels: int) -> tuple[Tensor, Tensor | None]:
        """Focal and dice loss, (2,), and their derivatives (2, h, b, K, W)."""
        above, below = 2 * self.hits + 1, self.area + self.size + 1  # (b, K)
        present = (self.size > 0).to(above.dtype)
        losses = torch.stack([self.focal / pixels, ((1 - above / below) * present).sum()])
        if self.slopes is None:
            return losses, None
        focal, area, hits = self.slopes
        dice = area * (present * above / below.square())[..., None] - hits * (present * 2 / below)[..., None]
        return losses, torch.stack([focal / pixels, dice])


class CrossEntropySums:
    """What binary cross-entropy adds up: its value, and its derivative by the logits, upsampled to full width only."""

    def __init__(self, low: Tensor, with_slopes: bool):
        self.total = low.new_zeros(1)
        self.slopes = low.new_zeros(1, *low.shape) if with_slopes else None

    def add(self, x: Tensor, target: Tensor, leave_out_void: bool, near: slice, weights: Tensor) -> None:
        """One tile: logits (r, b, K, W), targets (r, b, 1, W)."""
        valid, own = (target > 0).to(x.dtype), (target - 1).clamp(min=0)  # (r, b, 1, W)
        counted = valid if leave_out_void else torch.ones_like(valid)
        self.total += (F.softplus(x) * counted).sum() - (x.gather(2, own) * valid).sum()
        if self.slopes is not None:
            slope = x.sigmoid_().mul_(counted).scatter_add_(2, own, -valid)
            self.slopes[0, near] += product(weights.T, slope)

    def losses(self, pixels: int) -> tuple[Tensor, Tensor | None]:
        """The sum over all classes and pixels, (1,), and its derivatives (1, h, b, K, W)."""
        return self.total, self.slopes


def product(weights: Tensor, rows: Tensor) -> Tensor:
    """Weighted sums of rows: (r, n), (n, ...) -> (r, ...)."""
    return (weights @ rows.flatten(1)).unflatten(1, rows.shape[1:])


@lru_cache(maxsize=16)
def bands(length: int, out: int, rows: int, dtype: torch.dtype, device: torch.device) -> list:
    """Bilinear upsampling of an axis in bands of rows: their slice of `out`, that of `length` on which they depend, and
    the weights (r, n)."""
    identity = torch.eye(length, dtype=torch.float64)[None]  # (1, length, length)
    matrix = F.interpolate(identity, out, mode="linear", align_corners=False)[0].T  # (out, length)
    result = []
    for start in range(0, out, rows):
        band = slice(start, min(start + rows, out))
        used = matrix[band].any(0).nonzero()
        near = slice(int(used[0]), int(used[-1]) + 1)
        result.append((band, near, matrix[band, near].to(dtype).to(device)))
    return result
