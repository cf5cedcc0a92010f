"""The interface of every method and head, and the path from images and class names to label maps.

Shapes: B windows of c × c pixels, h × w the scores of one window, Q queries, E CLIP's joint embedding width, P prompts
per class, H × W the image.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from proxyclip.errors import InputError
from proxyclip.image_io import MAX_PIXELS, read_image, resize_to, scaled_size, to_tensor
from proxyclip.label_rule import LabelMap, LabelRule, label_map, on_device
from proxyclip.options import fits
from proxyclip.segmentation import Segmentation
from proxyclip.sliding import SlidingWindows, score_images, windows_per_batch
from proxyclip.stitching import WindowScores
from proxyclip.vocabulary import Vocabulary, list_of_names, warn_unknown

ONE_WINDOW = 1024  # pixels of an image that is neither cut nor resized, for the size of a batch


class Segmentor(nn.Module):
    """A model that assigns one of the given names to every pixel.

    A method or head defines `method`, `encode_classes`, `window_scores` and `settings`, and overrides `image_scores` if
    its windows depend on each other or on the whole image. Everything else is implemented here.

    method: the name as printed in papers, for records and tables. queries: "names" for models that use the class names
    of a benchmark instead of its prompts ("boat", not "ship"): see `Vocabulary.name_queries`. antialias: whether images
    are resized with antialiasing, by Pillow. window_size: height and width that the scores of a window are upsampled to
    first, if not its own; it matters where the label rule applies a sigmoid there.
    """

    method: str
    queries: str = "words"
    antialias: bool = False
    window_size: tuple[int, int] | None = None

    def __init__(
        self,
        *,
        windows: SlidingWindows,
        label_rule: LabelRule,
        short_side: int,
        padding_colour: tuple[float, float, float],
        patch_size: int,
        known_words: tuple[str, ...] | None = None,
    ):
        """windows, label_rule: how images are cut, and how scores become labels. short_side: images are resized to this
        short side, keeping their aspect ratio, with a long side of at most 2048 (0: not resized). padding_colour: RGB
        in [0, 1] of pixels beyond the image. patch_size: size of the smallest patches. known_words: all names that a
        small CLIP was trained on; others raise a warning."""
        super().__init__()
        self.windows, self.label_rule, self.short_side = windows, label_rule, short_side
        self.patch_size, self.known_words = patch_size, known_words
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

    def settings(self) -> dict:
        """Everything that a score depends on besides the image and the class names, ready for JSON."""
        return {
            "method": self.method,
            "short_side": self.short_side,
            "crop": self.windows.crop,
            "stride": self.windows.stride,
            "multiple": self.windows.multiple,
            **self.label_rule.settings(),
            **({"antialias": True} if self.antialias else {}),
        }

    # Written once

    def segment(
        self,
        images,
        classes,
        *,
        threshold: float | None = None,
        batch_windows: int | None = None,
        probabilities=(),
        max_pixels: int = MAX_PIXELS,
    ) -> Segmentation | list[Segmentation]:
        """Labels every pixel of one image, or of each image in a list.

        images: a path, a PIL image, an (H, W, 3) uint8 array, or a list of these. classes: names; one class may have
        several, "car; truck". threshold: pixels with a winning score below it get label 0 (default: that of the label
        rule). batch_windows: windows per batch (default: depends on their size and the device). probabilities: classes
        whose probability maps the result contains. Returns a Segmentation, or a list of them. Raises InputError or
        NotFound for invalid input.
        """
        if isinstance(images, (list, tuple)):
            return list(self.segment_each(images, classes, threshold, batch_windows, probabilities, max_pixels))
        return next(self.segment_each([images], classes, threshold, batch_windows, probabilities, max_pixels))

    @torch.no_grad()
    def segment_each(
        self, images, classes, threshold=None, batch_windows=None, probabilities=(), max_pixels=MAX_PIXELS
    ) -> Iterator[Segmentation]:
        """Like `segment`, but yields one result at a time, for more images than fit in memory."""
        if not fits(max_pixels, float) or max_pixels < 1:
            raise InputError(f"max_pixels is {max_pixels!r}; choose a number of pixels, such as {MAX_PIXELS}")
        vocabulary = classes if isinstance(classes, Vocabulary) else Vocabulary.parse(classes)
        keep = [vocabulary.index(name) for name in list_of_names(probabilities, "probabilities")]
        rule = self.label_rule.with_threshold(threshold)
        warn_unknown(vocabulary, self.known_words)
        settings = self.settings() | {"threshold": rule.threshold}
        waiting = []  # photographs whose windows are being scored, oldest first

        def prepared() -> Iterator[Tensor]:
            for source in images:
                waiting.append(read_image(source, max_pixels))  # (H, W, 3) uint8
                yield self.prepare(waiting[-1])

        for scores in self._scores_of(prepared(), self.encode_classes(vocabulary), batch_windows):
            image = waiting.pop(0)
            labels, confidence, maps = self._label_map(scores, image.shape[:2], vocabulary, rule, keep)
            yield Segmentation(
                labels=labels.to(torch.uint8 if len(vocabulary.classes) <= 256 else torch.int32).cpu().numpy(),
                confidence=confidence.cpu().numpy(),
                classes=list(vocabulary.classes),
                image=image,
                settings=settings,
                probabilities={vocabulary.classes[index]: maps[index].cpu().numpy() for index in keep},
            )

    @torch.no_grad()
    def predict(
        self,
        image: Tensor,
        size: tuple[int, int],
        vocabulary: Vocabulary,
        threshold: float | None = None,
        batch_windows: int | None = None,
    ) -> LabelMap:
        """Labels of one prepared image (3, h, w) at `size` (H, W): labels and confidence, both (H, W) tensors."""
        scores = next(self._scores_of([image.to(self.device)], self.encode_classes(vocabulary), batch_windows))
        return self._label_map(scores, size, vocabulary, self.label_rule.with_threshold(threshold))

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

    def _scores_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        """The scores of each image; windows of several images share batches unless a method looks at whole images."""
        if type(self).image_scores is Segmentor.image_scores:
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

    def _label_map(self, scores, size, vocabulary: Vocabulary, rule: LabelRule, keep=()) -> LabelMap:
        owners = vocabulary.class_of_query if self.queries == "words" else vocabulary.name_queries[1]
        penalty = dict(rule.subtract)  # by class name
        subtract = tuple(penalty.get(vocabulary.names[index], 0.0) for index in owners) if penalty else None
        subtract = subtract and on_device(subtract, self.device)  # (Q,)
        return label_map(scores, size, rule, on_device(owners, self.device), subtract, keep)


def as_it_is(height: int, width: int) -> tuple[int, int]:
    return height, width
