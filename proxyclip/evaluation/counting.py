"""Segments and counts a stream of images, and saves the counts every few seconds.

Shapes: K classes, H × W the size of a label, h × w that of the resized image.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from proxyclip.errors import InputError
from proxyclip.evaluation.partial_counts import Counts, Progress
from proxyclip.evaluation.prefetch import Ready
from proxyclip.evaluation.tally import DeviceTally, HostTally

if TYPE_CHECKING:
    from torch import Tensor

SAVE_EVERY = 5.0  # seconds between two saves of the progress: the most that a kill costs

# Images in, and in the same order each with its labels (H, W), as an array or on the model's device.
PredictEach = Callable[[Iterable[Ready]], Iterable[tuple[Ready, "np.ndarray | Tensor"]]]


def one_by_one(predict: Callable[["Tensor", tuple[int, int], str], np.ndarray]) -> PredictEach:
    """From a function of a single image, (3, h, w) RGB in [0, 1], (H, W) and the image's stem -> labels (H, W)."""
    return lambda stream: ((ready, predict(ready.tensor, ready.label.shape, ready.stem)) for ready in stream)


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


def as_array(labels) -> np.ndarray:
    """Labels (H, W) of an array or of a tensor on any device."""
    return labels if isinstance(labels, np.ndarray) else labels.cpu().numpy()


class Counting:
    """The counts of one process.

    A separate thread counts and saves, one image behind the model, so that the model does not wait for it. Only that
    thread accesses the counts, in sequence: whenever a run is stopped or killed, the saved file contains both the
    matrix and the name of each image, or neither. Labels on an accelerator are counted there; the counts are fetched
    when they are saved.
    """

    def __init__(self, classes: int, settings: Settings, progress: Progress | None, rank: int):
        self.classes, self.settings, self.progress, self.rank = classes, settings, progress, rank
        self.counts = Counts.empty(classes)
        self.tally: HostTally | DeviceTally = HostTally(classes)
        self.before: Future | None = None  # what the thread does
        self.refused = ""  # why the run ends early

    def run(self, predict: PredictEach, stream: Iterable[Ready]) -> Counts:
        """The counts of the whole stream; what is counted before an error is saved."""
        self.started = self.saved = time.monotonic()
        with ThreadPoolExecutor(1, "counting") as thread:
            try:
                for ready, labels in predict(self.usable(stream, thread)):
                    self.submit(thread, ready, labels)
                if self.before:
                    self.before.result()
                if self.refused:
                    raise InputError(self.refused)
            finally:
                thread.submit(self.save).result()
        return self.counts

    def usable(self, stream: Iterable[Ready], thread: ThreadPoolExecutor) -> Iterator[Ready]:
        """The images that can be segmented; the others are noted, or end the run behind those that came before."""
        for ready in stream:
            if not ready.problem:
                yield ready
            elif self.settings.skip_bad:
                self.submit(thread, ready, None)
            else:
                self.refused = f"{ready.problem} (rerun with --resume --skip-bad to skip such images)"
                return

    def submit(self, thread: ThreadPoolExecutor, ready: Ready, labels) -> None:
        if self.before:
            self.before.result()  # raises what went wrong; and no more than one image ever waits
        self.before = thread.submit(self.add, ready, labels)

    def add(self, ready: Ready, labels) -> None:
        """One image and its prediction (H, W), or one that is skipped."""
        if ready.problem:
            self.counts.skipped[ready.stem] = ready.problem
        else:
            if self.settings.writer:
                self.settings.writer(ready, as_array(labels))
            if not isinstance(labels, np.ndarray) and isinstance(self.tally, HostTally):
                self.tally = DeviceTally(self.classes, labels.device)
            self.tally.add(ready, labels)
        now = time.monotonic()
        self.counts.seconds = now - self.started if self.rank == 0 else 0.0
        if now - self.saved >= self.settings.save_every:
            self.save()
            self.saved = now

    def save(self) -> None:
        self.tally.move_to(self.counts)
        if self.progress:
            self.progress.save(self.counts, self.rank)
