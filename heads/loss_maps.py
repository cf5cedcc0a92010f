"""Focal and dice loss of upsampled mask logits, with their gradients in closed form, a tile at a time.

Bilinear upsampling is linear and acts on rows and columns separately: full = R · low · Cᵀ, and the gradient of `low` is
Rᵀ · (gradient of full) · C. So logits, probabilities and gradients at full resolution are needed for a few rows of a
few images at a time only, and a tile stays in a processor's cache. The gradient of the dice loss of a class is that of
its predicted area and of its hits, each times a number that is known once all tiles have been seen.

Shapes: B images, K classes, h × w the predictions, H × W the labels; in a tile r rows of b images that depend on n rows
of the predictions.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.windows import SparseRows, dense, resize_matrix

ALPHA = 0.25
CPU_TILE, ACCELERATOR_TILE = 300_000, 100_000_000  # elements


class LossMaps(torch.autograd.Function):
    """(B, K, h, w) logits and (B, H, W) targets, a class plus one or 0 for none -> focal and dice loss, scalars.

    focal: summed over images and classes, averaged over pixels. dice: summed over the classes present in each image.
    """

    @staticmethod
    def forward(ctx, logits, target, leave_out_void):
        needed = ctx.needs_input_grad[0]
        gradients = logits.new_empty(2, *logits.shape) if needed else None
        losses = logits.new_zeros(2)
        _, classes, height, width = logits.shape
        rows, columns = target.shape[1:]
        limit = CPU_TILE if logits.device.type == "cpu" else ACCELERATOR_TILE
        images = max(1, limit // (classes * rows * columns))
        down = bands(height, rows, max(1, limit // (images * classes * columns)), logits.dtype, logits.device)
        ((_, _, across),) = bands(width, columns, columns, logits.dtype, logits.device)  # (W, w)
        for start in range(0, len(logits), images):
            part = slice(start, start + images)
            low = (logits[part] @ across.T).permute(2, 0, 1, 3).contiguous()  # (h, b, K, W)
            sums = Sums(low, needed)
            for place, near, weights in down:
                full = product(weights, low[near])  # (r, b, K, W)
                sums.add(full, target[part, place].transpose(0, 1)[:, :, None], leave_out_void, near, weights)
            found, slopes = sums.losses(rows * columns)
            losses += found
            if needed:
                gradients[:, part] = (slopes @ across).permute(0, 2, 3, 1, 4)  # (2, b, K, h, w)
        ctx.save_for_backward(gradients)
        return losses[0], losses[1]

    @staticmethod
    def backward(ctx, grad_focal, grad_dice):
        (gradients,) = ctx.saved_tensors
        return grad_focal * gradients[0] + grad_dice * gradients[1], None, None


class Sums:
    """What is added up over the tiles of a few images.

    area: of each class the sum of its probabilities; hits: of those where it is the label; size: its labels, (b, K)
    each. slopes: derivatives of focal loss, area and hits by the logits, upsampled to full width only, (3, h, b, K, W).
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


def product(weights: Tensor, rows: Tensor) -> Tensor:
    """Weighted sums of rows: (r, n), (n, ...) -> (r, ...)."""
    return (weights @ rows.flatten(1)).unflatten(1, rows.shape[1:])


@lru_cache(maxsize=16)
def bands(length: int, out: int, rows: int, dtype: torch.dtype, device: torch.device) -> list:
    """Bilinear upsampling of an axis from `length` to `out` in bands: their place, what they depend on, and weights."""
    taps, found = resize_matrix(length, out), []
    for start in range(0, out, rows):
        place = slice(start, min(start + rows, out))
        near, weights = dense(SparseRows(taps.columns[place], taps.values[place]))  # (r, n)
        found.append((place, near, weights.to(dtype).to(device)))
    return found
