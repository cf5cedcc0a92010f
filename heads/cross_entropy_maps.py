"""Binary cross-entropy of upsampled logits, with its gradient in closed form, a few rows of one image at a time.

See `heads.loss_maps` for why no map of all classes at full resolution is needed.

Shapes: B images, K classes, h × w the predictions, H × W the labels; in a tile r rows that depend on n rows of the
predictions.
"""

import torch
import torch.nn.functional as F

from heads.loss_maps import ACCELERATOR_TILE, CPU_TILE, bands, product


class CrossEntropyMaps(torch.autograd.Function):
    """(B, K, h, w) logits and (B, H, W) targets, a class plus one or 0 for none -> the sum over all classes and pixels.

    Pixels of no class are negatives of all, unless they are left out.
    """

    @staticmethod
    def forward(ctx, logits, target, leave_out_void):
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        total = logits.new_zeros(())
        _, classes, height, width = logits.shape
        rows, columns = target.shape[1:]
        limit = CPU_TILE if logits.device.type == "cpu" else ACCELERATOR_TILE
        down = bands(height, rows, max(1, limit // (classes * columns)), logits.dtype, logits.device)
        ((_, _, across),) = bands(width, columns, columns, logits.dtype, logits.device)  # (W, w)
        for index, (image, truth) in enumerate(zip(logits, target, strict=True)):
            low = (image @ across.T).transpose(0, 1).contiguous()  # (h, K, W)
            slopes = None if gradient is None else torch.zeros_like(low)
            for place, near, weights in down:
                full = product(weights, low[near])  # (r, K, W)
                own = truth[place, None]  # (r, 1, W)
                valid, own = (own > 0).to(full.dtype), (own - 1).clamp(min=0)
                counted = valid if leave_out_void else torch.ones_like(valid)
                total += (F.softplus(full) * counted).sum() - (full.gather(1, own) * valid).sum()
                if slopes is not None:
                    slope = full.sigmoid_().mul_(counted).scatter_add_(1, own, -valid)
                    slopes[near] += product(weights.T, slope)
            if gradient is not None:
                gradient[index] = (slopes @ across).transpose(0, 1)  # (K, h, w)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None
