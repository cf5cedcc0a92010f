"""The training loop of all heads: iterations, the numbers that are logged, and evaluations in between.

Shapes: B images of c × c pixels in a batch of one process.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from heads.checkpoint import BEST
from heads.head import TrainableHead
from heads.losses import pixel_accuracy
from heads.training.objective import Outcome
from heads.training.run import Training
from proxyclip.backbones.checkpoints import some
from proxyclip.evaluation.loop import evaluate, predict_labels
from proxyclip.evaluation.metrics import scores as scores_of
from proxyclip.evaluation.metrics import seen_unseen
from proxyclip.evaluation.ranks import Ranks
from proxyclip.runtime import progress_bar
from proxyclip.vocabulary import Vocabulary

Batch = tuple[Tensor, Tensor]  # images (B, 3, c, c) float32 in [0, 1], labels (B, c, c) int64, both on the device
Scores = dict[str, float]


class NotFinite(RuntimeError):
    """A loss or a gradient is not finite; the message says where. Weights are as they were before the iteration."""


def train(run: Training, batches: Iterator[Batch], scores: Callable[[], Scores | None]) -> None:
    """Trains until the schedule ends, and leaves the best checkpoint, the last one and the state in the run's folder.

    batches: endless, from the first one that the run has not used. scores: those of the head as it is, in
    percent, None on all ranks but the first. Raises NotFinite, and InputError if a file cannot be written; the files of
    the last save are then intact.
    """
    recipe, progress = run.recipe, run.progress
    run.head.train()
    if run.due(recipe.evaluate_every) and progress.evaluated < progress.iteration:
        keep_scores(run, scores)  # what was interrupted
    for rate in iterate(run):
        started = time.perf_counter()
        numbers, outcome = step(run, batches)
        keep_numbers(run, numbers | {"seconds": time.perf_counter() - started}, rate, outcome)
        if run.due(recipe.evaluate_every):
            keep_scores(run, scores)
        elif run.due(recipe.save_every):
            run.save()
    if progress.evaluated < progress.iteration:
        keep_scores(run, scores)
    progress.finished = True
    run.save()


def iterate(run: Training) -> Iterator[float]:
    """Sets the learning rates of each iteration until the run ends, and yields the largest; with a progress bar."""

    def set_rates() -> Iterator[float]:
        while (done := run.done()) < 1:
            for group in run.optimiser.param_groups:
                group["lr"] = run.schedule.rate(group["base"], run.progress.iteration, done)
            yield max(group["lr"] for group in run.optimiser.param_groups)

    def note() -> str:
        minutes = run.schedule.minutes
        left = f", ends in {max(0, minutes - run.progress.seconds / 60):.1f} min at the latest" if minutes else ""
        return f"loss {run.loss:.4g}, iteration {run.progress.iteration}{left}"

    if not run.ranks.is_main:
        return set_rates()
    total, done = run.schedule.iterations * run.images, run.progress.iteration * run.images
    return progress_bar(set_rates(), total, "training", "image", done, size=lambda _: run.images, note=note)


def step(run: Training, batches: Iterator[Batch]) -> tuple[dict[str, float], Outcome]:
    """Updates the weights once. Returns all losses, their sum and the norm of the gradients, averaged over batches and
    ranks, and the outcome of the last batch. Raises NotFinite, naming the iteration and what is not finite."""
    iteration, world, accumulation = run.progress.iteration, run.ranks.world, run.recipe.accumulation
    # The random numbers of an iteration do not depend on where a run was resumed.
    seeds = np.random.SeedSequence((run.recipe.seed, iteration, run.ranks.rank))
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
    run.optimiser.zero_grad()
    totals = {}
    for index in range(accumulation):
        images, labels = next(batches)
        waits = index < accumulation - 1 and run.model is not run.head  # ranks exchange gradients once, at the end
        with run.model.no_sync() if waits else nullcontext():
            outcome = run.objective(run.model, images, labels)
            (sum(outcome.losses.values()) / accumulation).backward()
        for name, value in outcome.losses.items():
            totals[name] = totals.get(name, 0) + value.detach() / accumulation
    gradients = run.gradients()
    norm = torch.nn.utils.get_total_norm(gradients.values())
    losses = torch.stack([*totals.values()])
    if world > 1:
        torch.distributed.all_reduce(losses)
    *values, norm_value = torch.cat([losses / world, norm[None]]).tolist()  # all that the device is waited for
    numbers = {"loss": sum(values), **dict(zip(totals, values, strict=True)), "gradient_norm": norm_value}
    if wrong := [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]:
        bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        where = f"; gradients of {some(bad)} are not finite" if bad else ""
        raise NotFinite(f"iteration {iteration + 1}: {', '.join(wrong)}{where}")
    if run.recipe.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(run.parameters.values(), run.recipe.clip_norm, norm)
    run.optimiser.step()
    run.progress.iteration += 1
    return numbers, outcome


def keep_numbers(run: Training, numbers: dict[str, float], rate: float, outcome: Outcome) -> None:
    """Collects the numbers of an iteration; writes their means to the log when it is time."""
    progress, run.loss = run.progress, numbers["loss"]
    progress.sums = {name: progress.sums.get(name, 0.0) + value for name, value in numbers.items()}
    progress.count += 1
    if not run.due(run.recipe.log_every):
        return
    if run.log:
        means = {name: value / progress.count for name, value in progress.sums.items()}
        means["accuracy"] = float(pixel_accuracy(outcome.logits, outcome.labels))  # of one batch
        means["rate"], means["images_per_second"] = rate, run.images / means["seconds"]
        means["memory_megabytes"] = peak_megabytes(run.head.device)
        run.log.add(progress.iteration, "training", means)
    progress.sums, progress.count = {}, 0


def keep_scores(run: Training, compute: Callable[[], Scores | None]) -> None:
    """Saves, evaluates, and keeps the checkpoint if it is the best so far."""
    run.save()  # first: an evaluation may take long, and may meet a file that cannot be read
    run.head.eval()
    scores = compute()
    run.head.train()
    progress = run.progress
    progress.evaluated = progress.iteration
    if not run.ranks.is_main:
        return
    score = scores[run.choose]
    if run.log:
        run.log.add(progress.iteration, run.score_name, scores)
    best = math.isfinite(score) and (progress.best is None or score > progress.best)
    listed = "   ".join(f"{name} {value:.2f}" for name, value in scores.items())
    part = "" if run.limit is None else f", on {run.limit} images"
    print(f"iteration {progress.iteration}{part}: {listed}{', the best so far' if best else ''}", flush=True)
    if best:
        progress.best = score
        run.save_weights(BEST, scores)
    run.save()


def scores_on(
    samples: Sequence,
    head: TrainableHead,
    *,
    left_out: Sequence[str] = (),
    limit: int | None = None,
    workers: int = 0,
    batch_windows: int | None = None,
    ranks: Ranks | None = None,
) -> Callable[[], Scores | None]:
    """A function that returns the scores of the head as it is, in percent: aAcc and mIoU, or with unseen classes mIoU,
    pAcc (the same as aAcc), mIoU(S), mIoU(U) and hIoU; None on all ranks but the first.

    samples, limit: see `evaluate`; their classes are those of the head. left_out: the unseen ones. workers,
    batch_windows: how much runs at a time.
    """
    ranks = ranks or Ranks()
    unseen = [head.classes.index(name) for name in left_out]
    vocabulary = Vocabulary.parse(head.classes)
    predict = partial(predict_labels, model=head, vocabulary=vocabulary, batch_windows=batch_windows)

    def scores() -> Scores | None:
        counts = evaluate(
            predict,
            samples,
            len(head.classes),
            resize=head.resize,
            device=head.device,
            workers=workers,
            limit=limit,
            ranks=ranks,
        )
        if counts is None:
            return None
        means = scores_of(counts.matrix)
        if not unseen:
            return {"aAcc": means["aAcc"], "mIoU": means["mIoU"]}
        return {"mIoU": means["mIoU"], **seen_unseen(counts.matrix, unseen)}

    return scores


def peak_megabytes(device: torch.device) -> float:
    """The most memory that this process has used: on an accelerator what PyTorch has allocated there, else what the
    system has given it; nan where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
