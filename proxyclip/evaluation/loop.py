"""The evaluation loop: every image is segmented, compared with its label and counted.

It depends on neither models nor datasets: `predict` is any function from a stream of images to their labels, `samples`
any sequence of images with labels. If the labels of an image depend on that image alone, as those of every `Segmentor`,
the result is the same for any number of processes and interruptions.

Shapes: K classes, H × W the size of a label, h × w that of the resized image.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion
from proxyclip.evaluation.progress import Counts, ImageCounts, Progress
from proxyclip.evaluation.ranks import Ranks
from proxyclip.evaluation.reading import read_ahead
from proxyclip.runtime import progress_bar
from proxyclip.segmentor import Sample, Segmentor
from proxyclip.vocabulary import Vocabulary

MAX_PENDING = 4  # images that are predicted but not counted: an accelerator has work while one of them is waited for
ADVICE = "no counts are lost: rerun with --resume"

Resume = Literal["refuse", "resume", "restart"]


class LabelledImage(NamedTuple):
    """An image that was read for a model, with its label; or the reason why there is none."""

    stem: str
    image: Tensor | list[Tensor] | None = None  # (h, w, 3) uint8 RGB, resized; a list for several scales
    label: Tensor | None = None  # (H, W) int32, negative where nothing is scored
    problem: str = ""

    @property
    def pixels(self) -> np.ndarray:
        """(h, w, 3) uint8, to look at."""
        return np.asarray(self.image[0] if isinstance(self.image, list) else self.image)


@dataclass(frozen=True)
class LabelledImages:
    """`images[index]` is sample number `index`, read and resized, its parts as arrays. Picklable, if the samples are.

    samples: `samples[i]` returns stem, image (H, W, 3) uint8 and label (H, W), and raises ValueError or OSError with a
    message if it cannot be read; `samples.items[i].stem` is the name alone. resize: None leaves images unchanged.
    """

    samples: object
    resize: Callable[[np.ndarray], np.ndarray | list[np.ndarray]] | None = None

    def __getitem__(self, index: int) -> LabelledImage:
        try:
            stem, image, label = self.samples[index]  # (H, W, 3), (H, W)
        except (ValueError, OSError) as error:
            return LabelledImage(self.samples.items[index].stem, problem=str(error))
        return LabelledImage(stem, self.resize(image) if self.resize else image, label)


# Images in, and in the same order each with its labels (H, W), on the model's device.
Predict = Callable[[Iterable[LabelledImage]], Iterable[tuple[LabelledImage, Tensor]]]


def predict_labels(
    images: Iterable[LabelledImage],
    *,
    model: Segmentor,
    vocabulary: Vocabulary,
    threshold: float = 0.0,
    batch_windows: int | None = None,
) -> Iterator[tuple[LabelledImage, Tensor]]:
    """Each image with its labels (H, W), in order, on the model's device.

    threshold: as of the benchmark. batch_windows: see `Segmentor.segment`.
    """
    rule = model.label_rule.with_threshold(threshold)
    samples = (Sample(image.image, image.label.shape, image.stem, image) for image in images)
    for sample, label_map in model.predict_each(samples, vocabulary, rule, batch_windows, confidence=False):
        yield sample.item, label_map.labels


def evaluate(
    predict: Predict,
    samples,
    classes: int,
    *,
    resize: Callable[[np.ndarray], np.ndarray | list[np.ndarray]] | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    skip_bad: bool = False,
    write: Callable[[LabelledImage, np.ndarray], None] | None = None,
    progress: Progress | None = None,
    resume: Resume = "refuse",
    limit: int | None = None,
    ranks: Ranks | None = None,
    name: str = "evaluation",
) -> Counts | None:
    """The counts of all images of `samples`, on rank 0; None on the others.

    predict: images -> each with its labels (H, W), in order. samples, resize: see `LabelledImages`. classes: K. device:
    of the model. workers: processes that read images. skip_bad: images and labels that cannot be read are recorded and
    skipped instead of ending the run. write: called with each image and its prediction (H, W), in order, in a thread.
    progress: where to save the counts; rank 0's decides. resume: what to do with counts that are there already: refuse
    to start, leave out the images that they hold, or start anew without them. limit: only the first so many images.
    name: of the progress bar.

    Raises InputError for an image or label that cannot be used, unless skip_bad, and where another process is
    evaluating with the same progress.
    """
    if resume not in get_args(Resume):
        raise InputError(f"resume must be one of {', '.join(get_args(Resume))}, not {resume!r}")
    ranks, total = ranks or Ranks(), Counts.empty(classes)
    with ExitStack() as stack:
        if progress and ranks.is_main:
            stack.enter_context(progress.locked())
            total = earlier_counts(progress, classes, resume)
            if not skip_bad:
                total.skipped.clear()  # what was left out then is an error now
        done, progress = ranks.broadcast((total.done, progress))
        stems = [item.stem for item in samples.items[:limit]]
        left = [index for index, stem in enumerate(stems) if stem not in done]
        dataset, share = LabelledImages(samples, resize), ranks.share(left)
        images = stack.enter_context(read_ahead(dataset, share, workers=workers, device=device, advice=ADVICE))
        if ranks.is_main:  # one image of rank 0 stands for one of every rank, since their shares are equal
            images = progress_bar(images, len(stems), name, "image", len(stems) - len(left), size=lambda _: ranks.world)
        counts = count_images(predict, images, classes, skip_bad=skip_bad, write=write, progress=progress, ranks=ranks)
        for part in ranks.gather(counts):
            total += part
    return total if ranks.is_main else None


def earlier_counts(progress: Progress, classes: int, resume: Resume) -> Counts:
    """The counts to continue from. They are thrown away only on request."""
    if resume == "restart":
        progress.forget()
    earlier = progress.read(classes)
    if resume == "refuse" and earlier.done:
        raise InputError(
            f"a run of the same protocol was interrupted after {len(earlier.done)} images: --resume continues it, "
            "--restart discards it"
        )
    return earlier


def count_images(
    predict: Predict, images: Iterable[LabelledImage], classes: int, *, skip_bad: bool, write, progress, ranks: Ranks
) -> Counts:
    """The counts of this rank's images. One that cannot be used ends the run when those before it are counted.

    A thread waits for the device and for files, some images behind the model, so that the model waits for neither.
    """
    counts, pending, refused = Counts.empty(classes), deque(), ""
    thread, last = ThreadPoolExecutor(1, "counting"), time.monotonic()

    def count(image: LabelledImage, labels: Tensor | None = None, matrix: Tensor | None = None) -> None:
        nonlocal last
        if write and not image.problem:
            write(image, labels.cpu().numpy())
        matrix = None if image.problem else matrix.cpu().numpy()  # (K, K)
        now = time.monotonic()
        entry = ImageCounts.of(image.stem, (now - last) / ranks.world, matrix, image.problem)
        last = now
        if progress:
            progress.append(entry, ranks.rank)
        counts.add(entry)

    def submit(*arguments) -> None:
        if len(pending) == MAX_PENDING:
            pending.popleft().result()  # raises what went wrong
        pending.append(thread.submit(count, *arguments))

    def usable_images() -> Iterator[LabelledImage]:
        nonlocal refused
        for image in images:
            if not image.problem:
                yield image
            elif skip_bad:
                submit(image)
            else:
                refused = f"{image.problem} (rerun with --resume --skip-bad to skip such images)"
                return

    try:
        for image, labels in predict(usable_images()):
            submit(image, labels, confusion(labels, image.label, classes))
        for future in pending:
            future.result()
    finally:
        thread.shutdown(cancel_futures=True)
    if refused:
        raise InputError(refused)
    return counts
