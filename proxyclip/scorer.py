"""From images to scores: the first half of the interface of every method and head.

Shapes: B windows of c × c pixels, h × w the scores of one window, Q queries, E CLIP's joint embedding width, P prompts
per class, H × W the image.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from proxyclip.errors import InputError
from proxyclip.image_io import resize_to, scaled_size, to_tensor
from proxyclip.options import fits
from proxyclip.sliding import SlidingWindows, score_images, windows_per_batch
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
        return to_tensor(self.resize(image)).to(self.device)

    @property
    def resize(self) -> Callable[[np.ndarray], np.ndarray]:
        """(H, W, 3) uint8 -> the resized image (h, w, 3) uint8; can be pickled, for worker processes."""
        return partial(resize_to, size_for=self.size_for, antialias=self.antialias)

    @property
    def device(self) -> torch.device:
        return self.padding_colour.device

    def scores_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        """The scores of each image; windows of several images share batches unless a method looks at whole images."""
        if type(self).image_scores is Scorer.image_scores:
            return self._windows_of(images, text, batch_windows)
        return (self.image_scores(image, text, batch_windows) for image in images)

    def _windows_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        score, batch = partial(self.window_scores, text=text), self.batch_size(batch_windows)
        return score_images(score, images, self.windows, self.padding_colour, batch, self.window_size)

    def batch_size(self, batch_windows: int | None) -> int:
        """Windows per batch: as given, or as many as the number of tokens allows."""
        if batch_windows is not None:
            if not fits(batch_windows, int) or batch_windows < 1:
                raise InputError(f"batch_windows is {batch_windows!r}; it must be a whole number of at least 1")
            return int(batch_windows)
        return windows_per_batch(self.windows.crop or self.short_side or ONE_WINDOW, self.patch_size, self.device)


def as_it_is(height: int, width: int) -> tuple[int, int]:
    return height, width
