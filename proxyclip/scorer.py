"""From images to scores: the first half of the interface of every method and head.

Shapes: B windows of c × c pixels, h × w the scores of one window, Q queries, E CLIP's joint embedding width, P prompts
per class, H × W the image.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from proxyclip.batches import Batches, windows_per_batch
from proxyclip.compiled import CompiledScores
from proxyclip.errors import InputError
from proxyclip.image_io import resize_to, scaled_size, to_tensor
from proxyclip.options import fits
from proxyclip.sample import Sample
from proxyclip.sliding import SlidingWindows, score_images
from proxyclip.stitching import WindowScores
from proxyclip.vocabulary import Vocabulary

ONE_WINDOW = 1024  # pixels of an image that is neither cut nor resized, for the size of a batch


class Scorer(nn.Module):
    """A model that scores every patch of an image for every query.

    antialias: whether images are resized with antialiasing, by Pillow. window_size: height and width that the scores of
    a window are upsampled to first, if not its own; it matters where the label rule applies a sigmoid there.
    """

    antialias: bool = False
    window_size: tuple[int, int] | None = None

    def __init__(
        self,
        windows: SlidingWindows,
        short_side: int,
        padding_colour: tuple[float, float, float],
        patch_size: int,
    ):
        """The arguments are those of `Segmentor`."""
        super().__init__()
        self.windows, self.short_side, self.patch_size = windows, short_side, patch_size
        self._batches: dict[tuple, Batches] = {}  # a size that does not fit in memory is tried once
        # (H, W) of an image -> (h, w) that it is resized to. A plain callable: see `resize`.
        self.size_for = partial(scaled_size, short_side=short_side) if short_side else as_it_is
        self.register_buffer("padding_colour", torch.tensor(padding_colour), persistent=False)  # (3,)

    # What a method or head defines

    def encode_classes(self, vocabulary: Vocabulary) -> Tensor:
        """Text embeddings (Q, E), or (Q, P, E) where a class has P prompts, float32, on the model's device."""
        raise NotImplementedError

    def window_scores(self, crops: Tensor, text: Tensor) -> Tensor:
        """(B, 3, c, c) RGB in [0, 1] and the text embeddings -> scores (B, Q, h, w), low resolution, float32."""
        raise NotImplementedError

    def image_scores(self, image: Tensor, text: Tensor, batch_windows: int | None = None) -> WindowScores:
        """(3, H, W) RGB in [0, 1] -> the scores of all windows; several views may be combined with weights."""
        return next(self._windows_of([image], text, batch_windows))

    # Written once

    def prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> the resized image (3, h, w) in [0, 1] on the model's device."""
        return self.placed(self.staged(self.resize(image)))

    def staged(self, image: np.ndarray) -> Tensor:
        """An image (h, w, 3) uint8 as given by `resize`, ready for the model: the part of `prepare` that any thread may
        do ahead.

        On a CPU, (3, h, w) in [0, 1]; for an accelerator (h, w, 3) uint8, in memory that it can read by itself.
        """
        if self.device.type == "cpu":
            return to_tensor(image)
        pixels = torch.from_numpy(np.ascontiguousarray(image))  # (h, w, 3)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def placed(self, image: Tensor) -> Tensor:
        """An image as given by `staged` or `prepare` -> (3, h, w) in [0, 1] on the model's device, without waiting."""
        image = image.to(self.device, non_blocking=True)
        if image.dtype != torch.uint8:
            return image
        return image.permute(2, 0, 1).float().div(255)  # (3, h, w)

    @property
    def resize(self) -> Callable[[np.ndarray], np.ndarray]:
        """(H, W, 3) uint8 -> the resized image (h, w, 3) uint8; can be pickled, for worker processes."""
        return partial(resize_to, size_for=self.size_for, antialias=self.antialias)

    @property
    def device(self) -> torch.device:
        return self.padding_colour.device

    def score_each(
        self, samples: Iterable[Sample], vocabulary: Vocabulary, batch_windows: int | None = None
    ) -> Iterator[tuple[Sample, Tensor, WindowScores]]:
        """Each sample with its prepared image (3, h, w) and its scores, in order.

        Samples are taken only as batches need them. `Segmentor.decided` makes label maps of scores.
        """
        waiting = deque()

        def images() -> Iterator[Tensor]:
            for sample in samples:
                waiting.append((sample, image := self.placed(sample.image)))
                yield image

        for scores in self.scores_of(images(), self.encode_classes(vocabulary), batch_windows):
            yield *waiting.popleft(), scores

    def scores_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        """The scores of each image; windows of several images share batches unless a method looks at whole images."""
        if type(self).image_scores is Scorer.image_scores:
            return self._windows_of(images, text, batch_windows)
        return (self.image_scores(image, text, batch_windows) for image in images)

    def _windows_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        score, batches = partial(self.window_scores, text=text), self.batches(batch_windows)
        return score_images(score, images, self.windows, self.padding_colour, batches, self.window_size)

    def compile_scores(self, backend: str = "inductor") -> None:
        """Compiles `window_scores` when it is first used; see `CompiledScores`."""
        self.window_scores = CompiledScores(self.window_scores, backend)

    @property
    def compiled(self) -> bool:
        """Whether `compile_scores` was called."""
        return isinstance(self.window_scores, CompiledScores)

    def batches(self, batch_windows: int | None) -> Batches:
        """Batches of so many windows, or of as many as tokens and memory allow; the same object each time."""
        if batch_windows is not None and (not fits(batch_windows, int) or batch_windows < 1):
            raise InputError(f"batch_windows is {batch_windows!r}; it must be a whole number of at least 1")
        side = self.windows.crop or self.short_side or ONE_WINDOW
        key = batch_windows, side, self.device
        if key not in self._batches:
            parameters = sum(weight.numel() for weight in self.parameters())
            size = batch_windows or windows_per_batch(side, self.patch_size, self.device, parameters)
            self._batches[key] = Batches(int(size))
        return self._batches[key]


def as_it_is(height: int, width: int) -> tuple[int, int]:
    return height, width
