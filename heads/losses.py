"""The losses of heads: focal and dice loss (SegViT and its successors), and binary cross-entropy (CAT-Seg).

Lin et al., 2017 (focal loss, α = 0.25, γ = 2); Milletari et al., 2016 (dice loss). No map of all classes at full
resolution is ever in memory.

Shapes: B images, K classes, h × w the predictions, H × W the labels.
"""

from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from heads.cross_entropy_maps import CrossEntropyMaps
from heads.loss_maps import LossMaps

VOID = -1  # pixels without a label


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
    focal, dice = LossMaps.apply(logits, shifted(labels), void == "masked")
    return {"loss_mask": mask_weight * focal / masks, "loss_dice": dice_weight * dice / masks}


def cross_entropy_loss(logits: Tensor, labels: Tensor, void: Literal["negative", "masked"] = "negative") -> Tensor:
    """Binary cross-entropy of logits (B, K, h, w), upsampled, and labels (B, H, W), negative where there is none.

    The mean over all classes and pixels, a scalar; void: see `mask_loss`. If pixels are left out, all ranks divide by
    the same number of pixels.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = CrossEntropyMaps.apply(logits, shifted(labels), void == "masked")
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
        found = F.interpolate(scores[None], label.shape, mode="bilinear", align_corners=False)[0].argmax(0)  # (H, W)
        right, total = right + ((found == label) & (label >= 0)).sum(), total + (label >= 0).sum()
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
