"""AdamW over everything that a head trains."""

from collections.abc import Mapping

import torch
from torch import nn

from proxyclip.errors import InputError, nearest


def trained_parameters(head: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that is trained."""
    return {name: parameter for name, parameter in head.named_parameters() if parameter.requires_grad}


def group_parameters(
    head: nn.Module, rate: float, weight_decay: float, factors: Mapping[str, float], decay_norms: bool = True
) -> list[dict]:
    """Groups of parameters of one rate and weight decay each, as AdamW takes them; a schedule starts from `base`.

    decay_norms: whether weights and biases of norms decay. The head's `undecayed` parameters never do. factors: start
    of a parameter's name -> factor on its rate; the longest one counts. Raises InputError for one that no trained
    parameter starts with.
    """
    parameters = trained_parameters(head)
    for prefix in factors:
        if not any(name.startswith(prefix) for name in parameters):
            known = {name.split(".")[0] for name in parameters}
            raise InputError(f"rate_factors: no trained parameter starts with {prefix!r}; {nearest(prefix, known)}")
    exempt = getattr(head, "undecayed", frozenset()) | (frozenset() if decay_norms else norm_parameters(head))
    groups = {}
    for name, parameter in parameters.items():
        prefix = max((prefix for prefix in factors if name.startswith(prefix)), key=len, default=None)
        base = rate if prefix is None else rate * factors[prefix]
        groups.setdefault((base, 0.0 if name in exempt else weight_decay), []).append(parameter)
    return [{"params": members, "base": base, "weight_decay": decay} for (base, decay), members in groups.items()]


def norm_parameters(head: nn.Module) -> frozenset[str]:
    """Names of the weights and biases of all norms."""
    norms = {name: module for name, module in head.named_modules() if isinstance(module, (nn.LayerNorm, nn.GroupNorm))}
    return frozenset(f"{place}.{name}" for place, norm in norms.items() for name, _ in norm.named_parameters())


def make_optimiser(
    head: nn.Module, rate: float, weight_decay: float, factors: Mapping[str, float], decay_norms: bool = True
) -> torch.optim.AdamW:
    """AdamW; the arguments are those of `group_parameters`.

    The published configurations of ZegCLIP, OTSeg and Cascade-CLIP ask for no decay of norms, but through names that
    never match: there, norms and biases decay, too.
    """
    groups = group_parameters(head, rate, weight_decay, factors, decay_norms)
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay, fused=fused)


def set_rates(optimiser: torch.optim.Optimizer, rate_of) -> float:
    """Sets every group's rate to `rate_of(base)`; returns the largest."""
    for group in optimiser.param_groups:
        group["lr"] = rate_of(group["base"])
    return max(group["lr"] for group in optimiser.param_groups)
