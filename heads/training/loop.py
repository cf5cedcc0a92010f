"""The training loop of all heads."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial

from heads.checkpoint import BEST
from heads.losses import pixel_accuracy
from heads.training.memory import peak_megabytes
from heads.training.optimiser import set_rates
from heads.training.run import Training
from heads.training.scores import Scores
from heads.training.step import Batch, step
from proxyclip.runtime import progress_bar


def train(run: Training, batches: Iterator[Batch], evaluate: Callable[[], Scores | None]) -> None:
    """Trains until the schedule ends, and leaves the best checkpoint, the last one and the state in the run's folder.

    batches: endless, from the first one that the run has not used. evaluate: the scores of the head as it is, in
    percent, None on all ranks but the first. Raises NotFinite, and InputError if a file cannot be written; the files of
    the last save are then intact.
    """
    run.head.train()
    if run.due(run.pace.evaluate_every) and run.progress.evaluated < run.progress.iteration:
        keep_scores(run, evaluate)  # what was interrupted
    for rate in with_bar(run, rates(run)):
        started = time.perf_counter()
        numbers, outcome = step(run, batches)
        numbers["seconds"] = time.perf_counter() - started
        keep_numbers(run, numbers, rate, outcome)
        if run.due(run.pace.evaluate_every):
            keep_scores(run, evaluate)
        elif run.due(run.pace.save_every):
            run.save()
    if run.progress.evaluated < run.progress.iteration:
        keep_scores(run, evaluate)
    run.progress.finished = True
    run.save()


def rates(run: Training) -> Iterator[float]:
    """Sets the learning rate of every iteration until the run ends; yields the largest of all groups."""
    while (done := run.done()) < 1:
        yield set_rates(run.optimiser, partial(run.schedule.rate, iteration=run.progress.iteration, done=done))


def with_bar(run: Training, iterations: Iterator[float]) -> Iterator[float]:
    """The iterations, with a progress bar on the first rank."""
    if not run.ranks.first:
        return iterations
    progress, total = run.progress, run.schedule.iterations

    def note() -> str:
        limit = run.schedule.minutes
        time_left = f", ends in {max(0, limit - progress.seconds / 60):.1f} min at the latest" if limit else ""
        return f"loss {run.loss:.4g}, iteration {progress.iteration}{time_left}"

    bar = total * run.images, "training", "image", progress.iteration * run.images
    return progress_bar(iterations, *bar, size=lambda _: run.images, note=note)


def keep_numbers(run: Training, numbers: dict[str, float], rate: float, outcome) -> None:
    """Collects the numbers of an iteration; writes their means to the log when it is time."""
    progress, run.loss = run.progress, numbers["loss"]
    progress.sums = {name: progress.sums.get(name, 0.0) + value for name, value in numbers.items()}
    progress.count += 1
    if not run.due(run.pace.log_every):
        return
    if run.log:
        means = {name: value / progress.count for name, value in progress.sums.items()}
        own = {
            "accuracy": float(pixel_accuracy(outcome.decided, outcome.labels)),  # of one batch
            "rate": rate,
            "images_per_second": run.images / means["seconds"],
            "memory_megabytes": peak_megabytes(run.head.device),
        }
        run.log.add(progress.iteration, "training", means | own)
    progress.sums, progress.count = {}, 0


def keep_scores(run: Training, evaluate: Callable[[], Scores | None]) -> None:
    """Saves, evaluates, and keeps the checkpoint if it is the best so far."""
    run.save()  # first: an evaluation may take long, and may meet a file that cannot be read
    run.head.eval()
    scores = evaluate()
    run.head.train()
    run.progress.evaluated = run.progress.iteration
    if not run.ranks.first:
        return
    score = scores[run.choose]
    if run.log:
        run.log.add(run.progress.iteration, "scores", scores)
    listed = "   ".join(f"{name} {value:.2f}" for name, value in scores.items())
    best = run.progress.best is None or score > run.progress.best
    print(f"iteration {run.progress.iteration}: {listed}{', the best so far' if best else ''}", flush=True)
    if best:
        run.progress.best = score if math.isfinite(score) else None
        run.save_weights(BEST, scores)
    run.save()
