"""Which of CLIP's own weights are trained along with a head."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from proxyclip.backbones.clip import DenseCLIP

Mode = Literal["attention", "full", "prompt", "frozen"]


def tune(clip: DenseCLIP, mode: Mode) -> tuple[frozenset[str], frozenset[str]]:
    """Makes weights of a frozen CLIP trainable; returns their names, and those that no weight decay may act on.

    "attention": the query and value projections of all blocks of both towers (Cho et al., CAT-Seg, 2024, §3.4); the
    published position embeddings stay as they are, too. "full": everything in these blocks. "prompt" and "frozen":
    nothing.
    """
    tuned = {}
    for name, parameter in clip.model.named_parameters():
        if is_tuned(name, mode):
            tuned[f"clip.model.{name}"] = parameter.requires_grad_(True)
    if mode != "attention":
        return frozenset(tuned), frozenset()
    for weight in tuned.values():
        weight.register_hook(partial(without_keys, width=weight.shape[1]))
    # A decay would act on the keys as well. The published one, 1e-4 at a rate of 2e-6, is lost in the rounding of
    # float32, so that leaving it out changes nothing.
    return frozenset(tuned), frozenset(tuned)


def is_tuned(name: str, mode: Mode) -> bool:
    """Whether `tune` makes a weight of CLIP trainable. name: in open_clip's model."""
    in_block = "transformer.resblocks." in name
    return in_block and (mode == "full" or mode == "attention" and name.endswith(".attn.in_proj_weight"))


def fixed_part(name: str, weight: Tensor, mode: Mode) -> Tensor:
    """The part of a weight of CLIP that training does not change: all of it, the projection of keys, or nothing."""
    if not is_tuned(name, mode):
        return weight
    return weight.chunk(3)[1] if mode == "attention" else weight[:0]


def without_keys(gradient: Tensor, width: int) -> Tensor:
    """The gradient (3 D, D) of the projections of queries, keys and values, with zeros for the keys."""
    queries, keys, values = gradient.split(width)
    return torch.cat([queries, torch.zeros_like(keys), values])
