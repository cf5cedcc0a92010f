"""One iteration of training: gradients of a few batches, and one update of the weights.

Shapes: B images of c × c pixels in a batch of one process.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from heads.training.objective import Outcome
from heads.training.run import Training
from proxyclip.backbones.checkpoints import some

Batch = tuple[Tensor, Tensor]  # images (B, 3, c, c) float32 in [0, 1], labels (B, c, c) int64


class NotFinite(RuntimeError):
    """A loss or a gradient is not finite; the message says where. Weights are as they were before the iteration."""


def step(run: Training, batches: Iterator[Batch]) -> tuple[dict[str, float], Outcome]:
    """Updates the weights once. Returns all losses, their sum and the norm of the gradients, averaged over batches and
    ranks, and the outcome of the last batch. Raises NotFinite."""
    torch.manual_seed(seed_of(run.seed, run.progress.iteration, run.ranks.rank))
    run.optimiser.zero_grad()
    totals, count = {}, run.pace.accumulation
    for index in range(count):
        images, labels = (part.to(run.head.device, non_blocking=True) for part in next(batches))
        waits = index < count - 1 and run.model is not run.head  # ranks exchange gradients once, at the end
        with run.model.no_sync() if waits else nullcontext():
            outcome = run.objective(run.model, run.head.combine, images, labels)
            (sum(outcome.losses.values()) / count).backward()
        for name, value in outcome.losses.items():
            totals[name] = totals.get(name, 0) + value.detach() / count
    norm = torch.nn.utils.get_total_norm(run.gradients().values())
    losses = mean_over_ranks(torch.stack([*totals.values()]), run.ranks.world)
    *values, norm_value = torch.cat([losses, norm[None]]).tolist()  # the one moment at which the device is waited for
    numbers = {"loss": sum(values), **dict(zip(totals, values, strict=True)), "gradient_norm": norm_value}
    check_finite(run, numbers)
    if run.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(run.parameters.values(), run.clip_norm, norm)
    run.optimiser.step()
    run.progress.iteration += 1
    return numbers, outcome


def seed_of(seed: int, iteration: int, rank: int) -> int:
    """Of the random numbers of an iteration: they do not depend on where a run was resumed."""
    return int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1, np.uint64)[0])


def mean_over_ranks(values: Tensor, world: int) -> Tensor:
    if world > 1:
        torch.distributed.all_reduce(values)
    return values / world


def check_finite(run: Training, numbers: dict[str, float]) -> None:
    """Raises NotFinite, naming the iteration, what is not finite, and the parameters with such gradients."""
    wrong = [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if not wrong:
        return
    bad = [name for name, gradient in run.gradients().items() if not gradient.isfinite().all()]
    where = f"; gradients of {some(bad)} are not finite" if bad else ""
    raise NotFinite(f"iteration {run.progress.iteration + 1}: {', '.join(wrong)}{where}")
