"""What is minimised, and by what: the losses of a batch, and AdamW over everything that a head trains.

Shapes: B images of c × c pixels, K classes, h × w the predictions.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from heads.head import TrainableHead
from heads.losses import cross_entropy_loss, mask_loss, number_of_masks, pseudo_labels
from heads.training.recipe import Recipe
from proxyclip.errors import InputError, nearest
from proxyclip.vocabulary import Vocabulary

UNLABELLED = -2  # the label of a pixel of some unseen class; which one, a training sample does not say


class Outcome(NamedTuple):
    """losses: {"decode.loss_mask": ..., ...}, scalars whose sum is the loss. logits: (B, K, h, w), those that decide
    labels, without gradients. labels: (B, c, c), with pseudo labels."""

    losses: dict[str, Tensor]
    logits: Tensor
    labels: Tensor


class Objective:
    """The losses of all predictions of a head; predictions in its precision, losses in float32.

    text: embeddings of the classes that labels count, (K, E) or (K, P, E), or their names, where training changes what
    encodes them. unseen: in the transductive setting (U,) indices of the classes without labels: pixels marked
    UNLABELLED get the one with the highest score in the model's own prediction.
    """

    def __init__(self, head: TrainableHead, recipe: Recipe):
        self.head, self.recipe, self.unseen = head, recipe, None
        self.text: Tensor | Vocabulary = Vocabulary.parse(recipe.known)
        if not head.trains_text:
            with torch.no_grad():
                self.text = head.encode_classes(self.text).clone()
        if recipe.setting == "transductive":
            self.unseen = torch.tensor(sorted(map(recipe.known.index, recipe.left_out)), device=head.device)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Outcome:
        """Of images (B, 3, c, c) and labels (B, c, c). model: the head, or what wraps it for several processes."""
        recipe, precision = self.recipe, self.head.precision
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            predictions = model(images, self.text)
        logits = self.head.combine({name: prediction.detach() for name, prediction in predictions.items()})
        if self.unseen is not None:
            labels = pseudo_labels(logits, labels, self.unseen, UNLABELLED)
        losses = {}
        if recipe.loss == "mask":
            weights = {"mask_weight": recipe.mask_weight, "dice_weight": recipe.dice_weight, "void": recipe.void}
            masks = number_of_masks(labels, logits.shape[1])
            for name, prediction in predictions.items():
                for part, value in mask_loss(prediction, labels, **weights, masks=masks).items():
                    losses[f"{name}.{part}"] = value
        else:
            for name, prediction in predictions.items():
                losses[f"{name}.loss_cross_entropy"] = cross_entropy_loss(prediction, labels, recipe.void)
        return Outcome(losses, logits, labels)


def trained_parameters(head: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that is trained."""
    return {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}


def make_optimiser(head: TrainableHead, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with a group for each rate and weight decay; a schedule starts from a group's `base`.

    rate_factors: start of a parameter's name -> factor on its rate; the longest one counts. decay_norms: whether
    weights and biases of norms decay; the published configurations of ZegCLIP, OTSeg and Cascade-CLIP exempt them, but
    through names that never match. The head's `undecayed` parameters never decay. Raises InputError for a factor that
    is of no trained parameter.
    """
    parameters, factors = trained_parameters(head), recipe.rate_factors
    for prefix in factors:
        if not any(name.startswith(prefix) for name in parameters):
            known = {name.split(".")[0] for name in parameters}
            raise InputError(f"rate_factors: no trained parameter starts with {prefix!r}; {nearest(prefix, known)}")
    exempt = set(head.undecayed)
    if not recipe.decay_norms:
        norms = [path for path, module in head.named_modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))]
        exempt |= {name for name in parameters if name.rpartition(".")[0] in norms}
    groups = {}
    for name, parameter in parameters.items():
        prefix = max((prefix for prefix in factors if name.startswith(prefix)), key=len, default=None)
        base, decay = recipe.rate * factors.get(prefix, 1.0), 0.0 if name in exempt else recipe.weight_decay
        groups.setdefault((base, decay), []).append(parameter)
    groups = [{"params": members, "base": base, "weight_decay": decay} for (base, decay), members in groups.items()]
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=fused)
