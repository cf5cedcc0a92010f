"""The evaluation loop: every image is segmented, compared with its label and counted.

It depends on neither models nor datasets: `predict` is any function from a stream of images to their labels, `samples`
any sequence of images with labels. If the labels of an image depend on that image alone, as those of every `Segmentor`,
the result is the same for any number of processes and interruptions.
"""

from contextlib import closing, nullcontext
from typing import Literal, get_args

import numpy as np

from proxyclip.errors import InputError
from proxyclip.evaluation.counting import Counting, PredictEach, Settings
from proxyclip.evaluation.distributed import Ranks
from proxyclip.evaluation.partial_counts import Counts, Progress
from proxyclip.evaluation.prefetch import Resize, Stage, read_ahead
from proxyclip.runtime import progress_bar

Resume = Literal["refuse", "resume", "restart"]


def evaluate(
    predict: PredictEach,
    samples,
    classes: int,
    resize: Resize | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    resume: Resume = "refuse",
    limit: int | None = None,
    ranks: Ranks | None = None,
    name: str = "evaluation",
    stage: Stage | None = None,
) -> Counts | None:
    """The counts of all images of `samples`, on rank 0; None on the others.

    predict: a stream of `Ready` -> each with its labels (H, W), in order; `one_by_one` makes it from a function of one
    image. samples, resize, stage: see `read_ahead`. classes: K. progress: where to save the counts; rank 0's decides.
    resume: what to do with counts that are there already: refuse to start, leave out the images that they hold, or
    start anew without them. limit: only the first so many images. name: of the progress bar.
    Raises InputError for an image or label that cannot be used, unless settings.skip_bad, and where another process is
    evaluating with the same progress.
    """
    if resume not in get_args(Resume):
        raise InputError(f"resume must be one of {', '.join(get_args(Resume))}, not {resume!r}")
    settings, ranks = settings or Settings(), ranks or Ranks()
    with progress.locked() if progress and ranks.first else nullcontext():
        earlier = Counts.empty(classes)
        if progress and ranks.first:
            earlier = earlier_counts(progress, classes, resume)
            if not settings.skip_bad:
                earlier.skipped.clear()  # what was left out then is an error now
        done, progress = ranks.from_first((earlier.done, progress))
        stems = [item.stem for item in samples.items[:limit]]
        todo = [index for index, stem in enumerate(stems) if stem not in done]

        counting = Counting(classes, settings, progress, ranks.rank)
        with closing(read_ahead(samples, ranks.share(todo), resize, settings.workers, stage)) as stream:
            own = counting.run(predict, stream_with_bar(stream, len(stems), len(stems) - len(todo), ranks, name))
        total = Counts(ranks.sum(own.matrix))
        for images, skipped, seconds in ranks.gather((own.images, own.skipped, own.seconds)):
            total += Counts(np.zeros_like(total.matrix), images, skipped, seconds)
        return earlier + total if ranks.first else None


def earlier_counts(progress: Progress, classes: int, resume: Resume) -> Counts:
    """The counts to continue from. They are thrown away only on request."""
    if resume == "restart":
        progress.forget()
    earlier = progress.earlier(classes)
    if resume == "refuse" and earlier.done:
        raise InputError(
            f"a run of the same protocol was interrupted after {len(earlier.done)} images: --resume continues it, "
            "--restart discards it"
        )
    return earlier


def stream_with_bar(stream, total: int, done: int, ranks: Ranks, name: str):
    """The stream, with a progress bar on rank 0. One image of rank 0 stands for one of every rank: shares are equal."""
    if not ranks.first:
        return stream
    return progress_bar(stream, total, name, "image", done, size=lambda _: ranks.world)
