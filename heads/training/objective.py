"""From a batch to its losses.

Shapes: B images of c × c pixels, K classes, h × w the predictions.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from heads.losses import cross_entropy_loss, mask_loss, number_of_masks, pseudo_labels
from proxyclip.vocabulary import Vocabulary

UNLABELLED = -2  # the label of a pixel of some unseen class; which one, a training sample does not say


class Outcome(NamedTuple):
    """losses: {"decode.loss_mask": ..., ...}, scalars whose sum is the loss. decided: the logits (B, K, h, w) that
    decide labels, without gradients. labels: (B, c, c), with pseudo labels."""

    losses: dict[str, Tensor]
    decided: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Objective:
    """The losses of all predictions of a head.

    text: embeddings of the classes that labels count, (K, E) or (K, P, E), or their names, where training changes what
    encodes them. loss: "mask", focal and dice loss, or "cross_entropy". unseen: (U,) indices of the classes without
    labels, in the transductive setting: pixels marked UNLABELLED get the one with the highest score in the model's own
    prediction. mask_weight, dice_weight, void: see `mask_loss`. precision: the type that predictions are computed in;
    losses are computed in float32.
    """

    text: Tensor | Vocabulary
    unseen: Tensor | None = None
    loss: Literal["mask", "cross_entropy"] = "mask"
    mask_weight: float = 100.0
    dice_weight: float = 1.0
    void: Literal["negative", "masked"] = "negative"
    precision: torch.dtype = torch.float32

    def __call__(self, model, combine, images: Tensor, labels: Tensor) -> Outcome:
        """Of images (B, 3, c, c) and labels (B, c, c).

        model: the head, or what wraps it for several processes. combine: see `TrainableHead.combine`.
        """
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            predictions = model(images, self.text)
        decided = combine({name: logits.detach() for name, logits in predictions.items()})  # (B, K, h, w)
        if self.unseen is not None:
            labels = pseudo_labels(decided, labels, self.unseen, UNLABELLED)
        if self.loss == "mask":
            masks = number_of_masks(labels, decided.shape[1])
            weights = self.mask_weight, self.dice_weight, self.void
            found = {name: mask_loss(logits, labels, *weights, masks) for name, logits in predictions.items()}
        else:
            found = {
                name: {"loss_cross_entropy": cross_entropy_loss(logits, labels, self.void)}
                for name, logits in predictions.items()
            }
        losses = {f"{name}.{part}": value for name, parts in found.items() for part, value in parts.items()}
        return Outcome(losses, decided, labels)
