"""The contract of every method and head, and the one way from photographs and names to label maps.

Shapes: B windows of c × c pixels, h × w the scores of one window, Q queries, E CLIP's joint embedding width, P prompts
of a class, H × W the photograph.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from proxyclip.errors import InputError
from proxyclip.image_io import MAX_PIXELS, read_image, resize, scaled_size, to_tensor
from proxyclip.label_rule import LabelMap, LabelRule, label_map
from proxyclip.segmentation import Segmentation
from proxyclip.sliding import SlidingWindows, score_images, windows_per_batch
from proxyclip.stitching import WindowScores
from proxyclip.vocabulary import Vocabulary, list_of_names, warn_unknown

ONE_WINDOW = 1024  # pixels of an image that is neither cut nor resized, for the size of a batch


class Segmentor(nn.Module):
    """A model that gives every pixel one of the names it is asked for.

    A method or head defines `method`, `encode_classes`, `window_scores` and `settings`, and overrides `image_scores` if
    its windows need to know of each other or of the whole image. Everything else is written once, here.

    method: the name that papers print, for records and tables. queries: "names" for models that take the class names
    of a benchmark instead of the words that stand for them ("boat", not "ship").
    """

    method: str
    queries: str = "words"

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
        """windows, label_rule: how images are cut and decided. short_side: images are resized to it, keeping their
        aspect, the long side to at most 2048 (0: not resized). padding_colour: RGB in [0, 1] of what lies beyond the
        image. patch_size: of the smallest patches. known_words: all names that a small CLIP has learnt; others bring
        a warning."""
        super().__init__()
        self.windows, self.label_rule, self.short_side = windows, label_rule, short_side
        self.patch_size, self.known_words = patch_size, known_words
        # (H, W) of an image -> (h, w) that it is resized to. A plain callable: other processes resize images, too.
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
        """(3, H, W) RGB in [0, 1] -> the scores of all its windows; several views may be combined with weights."""
        return next(self._windows_of([image], text, batch_windows))

    def settings(self) -> dict:
        """All that a score depends on beside the image and the words, ready for JSON."""
        return {
            "method": self.method,
            "short_side": self.short_side,
            "crop": self.windows.crop,
            "stride": self.windows.stride,
            "multiple": self.windows.multiple,
            **self.label_rule.settings(),
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
        """Labels every pixel of one image, or of each of a list.

        images: a path, a PIL image, an (H, W, 3) uint8 array, or a list of those. classes: names; one class may have
        several, "car; truck". threshold: where the winning score lies below it the label is 0 (default: the label
        rule's). batch_windows: how many windows run at a time (default: by their size and the device). probabilities:
        the classes whose probability maps the result holds.
        Returns a Segmentation, or a list of them. Raises InputError or NotFound with one sentence for bad input.
        """
        if isinstance(images, (list, tuple)):
            return list(self.segment_each(images, classes, threshold, batch_windows, probabilities, max_pixels))
        return next(self.segment_each([images], classes, threshold, batch_windows, probabilities, max_pixels))

    @torch.no_grad()
    def segment_each(
        self, images, classes, threshold=None, batch_windows=None, probabilities=(), max_pixels=MAX_PIXELS
    ) -> Iterator[Segmentation]:
        """As `segment`, one result at a time, for more images than fit in memory."""
        vocabulary = classes if isinstance(classes, Vocabulary) else Vocabulary.parse(classes)
        keep = [vocabulary.index(name) for name in list_of_names(probabilities, "probabilities")]
        rule = self.rule(threshold)
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
        return self._label_map(scores, size, vocabulary, self.rule(threshold))

    def prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> the resized image (3, h, w) in [0, 1] on the model's device."""
        return to_tensor(resize(image, self.size_for(*image.shape[:2]))).to(self.device)

    def rule(self, threshold: float | None) -> LabelRule:
        """The label rule, with another threshold if one is given."""
        if threshold is None:
            return self.label_rule
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold!r}: it is a probability, so choose a number between 0 and 1")
        return replace(self.label_rule, threshold=float(threshold))

    @property
    def device(self) -> torch.device:
        return self.padding_colour.device

    def _scores_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        """The scores of each image; windows of several images share batches unless a method looks at whole images."""
        if type(self).image_scores is Segmentor.image_scores:
            return self._windows_of(images, text, batch_windows)
        return (self.image_scores(image, text, batch_windows) for image in images)

    def _windows_of(self, images: Iterable[Tensor], text: Tensor, batch_windows: int | None) -> Iterator[WindowScores]:
        score = partial(self.window_scores, text=text)
        return score_images(score, images, self.windows, self.padding_colour, self.batch_size(batch_windows))

    def batch_size(self, batch_windows: int | None) -> int:
        """Windows that run at a time: as given, or as many as their tokens allow."""
        if batch_windows is not None:
            if isinstance(batch_windows, bool) or not isinstance(batch_windows, int) or batch_windows < 1:
                raise InputError(f"batch_windows is {batch_windows!r}; at least one window must run at a time")
            return batch_windows
        return windows_per_batch(self.windows.crop or self.short_side or ONE_WINDOW, self.patch_size, self.device)

    def _label_map(self, scores, size, vocabulary: Vocabulary, rule: LabelRule, keep=()) -> LabelMap:
        owners = vocabulary.class_of_query if self.queries == "words" else tuple(range(len(vocabulary.classes)))
        penalty = dict(rule.subtract)  # by class name
        subtract = tuple(penalty.get(vocabulary.names[index], 0.0) for index in owners) if penalty else None
        subtract = subtract and on_device(subtract, self.device)  # (Q,)
        return label_map(scores, size, rule, on_device(owners, self.device), subtract, keep)


def as_it_is(height: int, width: int) -> tuple[int, int]:
    return height, width


@lru_cache(maxsize=16)
def on_device(values: tuple, device: torch.device) -> Tensor:
    """The numbers as a tensor that is copied to an accelerator once."""
    return torch.tensor(values, device=device)
