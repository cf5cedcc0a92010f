"""Segments and counts a stream of images, and saves the counts every few seconds.

Shapes: K classes, H × W the size of a label, h × w that of the resized image.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.evaluation.partial_counts import Counts, Progress
from proxyclip.evaluation.prefetch import Ready

if TYPE_CHECKING:
    from torch import Tensor

SAVE_EVERY = 5.0  # seconds between two saves of the progress: the most that a kill costs

# (3, h, w) RGB in [0, 1], (H, W) and the image's stem -> labels (H, W)
Predict = Callable[["Tensor", tuple[int, int], str], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """How an evaluation runs. None of it affects the result, except for skipped images.

    workers: data-loading processes. skip_bad: images and labels that cannot be read are recorded and skipped instead of
    ending the run. save_every: seconds. writer: called with each image's `Ready` and prediction (H, W), in order, in
    the counting thread.
    """

    workers: int = 1
    skip_bad: bool = False
    save_every: float = SAVE_EVERY
    writer: Callable[[Ready, np.ndarray], None] | None = None


class Counting:
    """The counts of one process.

    A separate thread counts and saves, one image behind the model, so that the model does not wait for it. Only that
    thread accesses the counts, in sequence: whenever a run is stopped or killed, the saved file contains both the
    matrix and the name of each image, or neither.
    """

    def __init__(self, classes: int, settings: Settings, progress: Progress | None, rank: int):
        self.classes, self.settings, self.progress, self.rank = classes, settings, progress, rank
        self.counts = Counts.empty(classes)

    def run(self, predict: Predict, stream: Iterable[Ready]) -> Counts:
        """The counts of the whole stream; what is counted before an error is saved."""
        self.started = self.saved = time.monotonic()
        before = None
        with ThreadPoolExecutor(1, "counting") as thread:
            try:
                for ready in stream:
                    if ready.problem and not self.settings.skip_bad:
                        raise InputError(f"{ready.problem} (rerun with --resume --skip-bad to skip such images)")
                    labels = None  # (H, W)
                    if not ready.problem:
                        labels = predict(ready.tensor, ready.label.shape, ready.stem)
                    if before:
                        before.result()  # raises what went wrong; and no more than one image ever waits
                    before = thread.submit(self.add, ready, labels)
                if before:
                    before.result()
            finally:
                thread.submit(self.save).result()
        return self.counts

    def add(self, ready: Ready, labels: np.ndarray | None) -> None:
        """One image and its prediction (H, W), or one that is skipped."""
        if ready.problem:
            self.counts.skipped[ready.stem] = ready.problem
        else:
            if self.settings.writer:
                self.settings.writer(ready, labels)
            matrix = confusion(labels, ready.label, self.classes)  # (K, K)
            alone = scores(matrix)
            self.counts.matrix += matrix
            self.counts.images[ready.stem] = alone["aAcc"], alone["mIoU_present"]
        now = time.monotonic()
        self.counts.seconds = now - self.started if self.rank == 0 else 0.0
        if now - self.saved >= self.settings.save_every:
            self.save()
            self.saved = now

    def save(self) -> None:
        if self.progress:
            self.progress.save(self.counts, self.rank)
