"""A model meets a benchmark: every image is segmented, compared with its label and counted.

It knows neither models nor datasets: `predict` is any function from a picture to labels, `samples` any sequence of
images with labels. Every image is segmented on its own, never in one batch with another: its labels then depend on
itself alone, and the result is the same with any number of processes and after any number of stops.

Shapes: K classes, H × W a label's size, h × w the resized picture's.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.evaluation.distributed import Ranks
from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.evaluation.partial_counts import Progress, Tally
from proxyclip.evaluation.prefetch import Ready, read_ahead
from proxyclip.evaluation.progress_bar import shown
from proxyclip.segmentor import ProxyCLIP, check_batch, check_threshold, tiles
from proxyclip.sliding import Decision, decide, mosaics
from proxyclip.vocabulary import Vocabulary

SAVE_EVERY = 5.0  # seconds between two saves of the progress: the most that a kill costs

Predict = Callable[[Tensor, tuple[int, int]], np.ndarray]


def predictor(model: ProxyCLIP, classes, threshold: float = 0.0, batch_windows: int | None = None) -> Predict:
    """A function (3, h, w) RGB in [0, 1], (H, W) -> labels (H, W), integers: the model, asked for those classes.

    classes: queries in label order, "car; truck" for a class with two. threshold, batch_windows: see
    `ProxyCLIP.segment`. Raises InputError for unusable classes.
    """
    vocabulary = Vocabulary.parse(classes)
    decision = Decision(torch.tensor(vocabulary.class_of_query), model.logit_scale, check_threshold(threshold))
    batch_windows = check_batch(batch_windows, model.device)
    window_scores = partial(model.window_scores, words=model.embed_words(vocabulary))

    @torch.inference_mode()
    def predict(picture: Tensor, size: tuple[int, int]) -> np.ndarray:
        picture = picture.to(model.device)
        mosaic = next(mosaics(window_scores, [picture], model.windows, model.clip.mean, batch_windows))
        return decide(mosaic, model.windows, size, decision, **tiles(model.device))[0].cpu().numpy()  # (H, W)

    return predict


@dataclass(frozen=True)
class Settings:
    """How an evaluation runs; the result does not depend on any of it, save for images that are skipped.

    workers: processes that read ahead. skip_bad: images and labels that cannot be read are counted and left out instead
    of ending the run. save_every: seconds. keep: called with each image's `Ready` and prediction (H, W), in order, in
    the thread that counts.
    """

    workers: int = 1
    skip_bad: bool = False
    save_every: float = SAVE_EVERY
    keep: Callable[[Ready, np.ndarray], None] | None = None


def evaluate(
    predict: Predict,
    samples,
    classes: int,
    short_side: int,
    settings: Settings | None = None,
    progress: Progress | None = None,
    resume: bool | None = False,
    limit: int | None = None,
    ranks: Ranks | None = None,
    name: str = "evaluation",
) -> Tally | None:
    """The counts of all images of `samples`, on rank 0; None on the others.

    samples: see `read_ahead`. classes: K. progress: where to keep what is counted. resume: what to do with what is kept
    there already: leave its images out (True), forget it (False), or refuse (None). limit: only the first so many
    images. name: of the progress bar.
    Raises InputError for an image or label that cannot be used, unless settings.skip_bad.
    """
    settings, ranks = settings or Settings(), ranks or Ranks()
    earlier = Tally.empty(classes)
    if progress and ranks.first:
        earlier = earlier_counts(progress, classes, resume)
        if not settings.skip_bad:
            earlier.skipped.clear()  # what was left out then is an error now
    done, session = ranks.from_first((earlier.done, progress.session if progress else 0))
    if progress:
        progress.session = session
    stems = [item.stem for item in samples.items[:limit]]
    todo = [index for index, stem in enumerate(stems) if stem not in done]

    counting = Counting(classes, settings, progress, ranks)
    with closing(read_ahead(samples, ranks.share(todo), short_side, settings.workers)) as stream:
        own = counting.run(predict, shown(stream, len(stems), len(done), ranks, name))
    total = Tally(ranks.sum(own.matrix))
    for images, skipped, seconds in ranks.gather((own.images, own.skipped, own.seconds)):
        total += Tally(np.zeros_like(total.matrix), images, skipped, seconds)
    return earlier + total if ranks.first else None


def earlier_counts(progress: Progress, classes: int, resume: bool | None) -> Tally:
    """What there is to go on from. It is thrown away only by those who say so."""
    if resume is False:
        progress.clear()
    earlier = progress.earlier(classes)
    if resume is None and earlier.done:
        raise InputError(
            f"a run of the same protocol was stopped after {len(earlier.done)} images: --resume goes on with it, "
            "--restart gives it up"
        )
    return earlier


class Counting:
    """Segments and counts what a stream brings, and saves the counts every few seconds.

    A thread of its own counts and saves, one image behind the model, so that the model need not wait for it. No other
    touches the tally, and it does one thing after the other: whenever a run is stopped, interrupted or killed, what is
    saved holds the matrix and the name of each image, or neither.
    """

    def __init__(self, classes: int, settings: Settings, progress: Progress | None, ranks: Ranks):
        self.classes, self.settings, self.progress, self.ranks = classes, settings, progress, ranks
        self.tally = Tally.empty(classes)

    def run(self, predict: Predict, stream: Iterable[Ready]) -> Tally:
        """The counts of all of the stream; what is counted before an error is saved."""
        self.started = self.saved = time.monotonic()
        before = None
        with ThreadPoolExecutor(1, "counting") as thread:
            try:
                for ready in stream:
                    if ready.problem and not self.settings.skip_bad:
                        raise InputError(f"{ready.problem} (--resume --skip-bad goes on without such images)")
                    labels = None if ready.problem else predict(ready.tensor, ready.label.shape)  # (H, W)
                    if before:
                        before.result()  # raises what went wrong; and no more than one image ever waits
                    before = thread.submit(self.add, ready, labels)
                if before:
                    before.result()
            finally:
                thread.submit(self.save).result()
        return self.tally

    def add(self, ready: Ready, labels: np.ndarray | None) -> None:
        """One image and its prediction (H, W), or one that is skipped."""
        if ready.problem:
            self.tally.skipped[ready.stem] = ready.problem
        else:
            if self.settings.keep:
                self.settings.keep(ready, labels)
            counts = confusion(labels, ready.label, self.classes)  # (K, K)
            alone = scores(counts)
            self.tally.matrix += counts
            self.tally.images[ready.stem] = alone["aAcc"], alone["mIoU_present"]
        now = time.monotonic()
        self.tally.seconds = now - self.started if self.ranks.first else 0.0
        if now - self.saved >= self.settings.save_every:
            self.save()
            self.saved = now

    def save(self) -> None:
        if self.progress:
            self.progress.save(self.tally, self.ranks.rank)
