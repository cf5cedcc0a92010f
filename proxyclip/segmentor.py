"""The interface of every method and head, and the path from images and class names to label maps.

Shapes: Q queries, H × W the image, h × w the image as it is scored.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.background import with_background
from proxyclip.errors import InputError
from proxyclip.image_io import MAX_PIXELS, read_image
from proxyclip.label_map import label_map, on_device
from proxyclip.label_rule import LabelMap, LabelRule
from proxyclip.options import fits
from proxyclip.refine._refinement import Guide, Refinement
from proxyclip.refined_label_map import refined_label_map
from proxyclip.sample import Sample, named, to_host
from proxyclip.scorer import Scorer
from proxyclip.segmentation import Segmentation
from proxyclip.sliding import SlidingWindows
from proxyclip.vocabulary import Vocabulary, list_of_names, warn_unknown


class Segmentor(Scorer):
    """A model that assigns one of the given names to every pixel.

    A method or head defines `method`, `encode_classes`, `window_scores` and `settings`, and overrides `image_scores` if
    its windows depend on each other or on the whole image. Everything else is implemented here and in `Scorer`.

    method: the name as printed in papers, for records and tables. queries: "names" for models that use the class names
    of a benchmark instead of its prompts ("boat", not "ship"): see `Vocabulary.name_queries`. refinement: of the score
    maps at the size of the image, if there is one; see `proxyclip.refine`.
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
        """windows, label_rule: how images are cut, and how scores become labels. short_side: images are resized to this
        short side, keeping their aspect ratio, with a long side of at most 2048 (0: not resized). padding_colour: RGB
        in [0, 1] of pixels beyond the image. patch_size: size of the smallest patches. known_words: all names that a
        small CLIP was trained on; others raise a warning."""
        super().__init__(windows, short_side, padding_colour, patch_size)
        self.label_rule, self.known_words = label_rule, known_words
        self.refinement: Refinement | None = None

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
            **self.refinement_settings(),
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
        background: str = "none",
        names=None,
    ) -> Segmentation | list[Segmentation]:
        """Labels every pixel of one image, or of each image in a list.

        images: a path, a PIL image, an (H, W, 3) uint8 array, or a list of these. classes: names; one class may have
        several, "car; truck". threshold: pixels with a winning score below it get label 0 (default: that of the label
        rule). batch_windows: windows per batch (default: depends on their size and the device). probabilities: classes
        whose probability maps the result contains. background: "threshold" or "vocabulary" puts a class for everything
        else before the others: see `proxyclip.background.with_background`. names: of the images, by which masks in a
        folder are found (default: those of the files, without their endings). Returns a Segmentation, or a list of
        them. Raises InputError or NotFound for invalid input.
        """
        several = isinstance(images, (list, tuple))
        if names is not None:
            names = list_of_names(names if several else [names], "names")
            if several and len(names) != len(images):
                raise InputError(f"{len(names)} names were given for {len(images)} images; give one for each")
        given = (threshold, batch_windows, probabilities, max_pixels, background, names)
        found = self.segment_each(images if several else [images], classes, *given)
        return list(found) if several else next(found)

    @torch.no_grad()
    def segment_each(
        self,
        images,
        classes,
        threshold=None,
        batch_windows=None,
        probabilities=(),
        max_pixels=MAX_PIXELS,
        background="none",
        names=None,
    ) -> Iterator[Segmentation]:
        """Like `segment`, but yields one result at a time, for more images than fit in memory."""
        if not fits(max_pixels, float) or max_pixels < 1:
            raise InputError(f"max_pixels is {max_pixels!r}; choose a number of pixels, such as {MAX_PIXELS}")
        vocabulary = classes if isinstance(classes, Vocabulary) else Vocabulary.parse(classes)
        if background != "none":
            vocabulary, threshold = with_background(vocabulary, background, threshold)
        keep = [vocabulary.index(name) for name in list_of_names(probabilities, "probabilities")]
        rule = self.label_rule.with_threshold(threshold)
        warn_unknown(vocabulary, self.known_words)
        settings = self.settings() | {"threshold": rule.threshold}

        def samples() -> Iterator[Sample]:
            for source, name in named(images, names):
                image = read_image(source, max_pixels)  # (H, W, 3) uint8
                yield Sample(self.staged(self.resize(image)), image.shape[:2], name, image)

        found = self.predict_each(samples(), vocabulary, rule, batch_windows, keep)
        for sample, (labels, confidence, maps) in to_host(found, self.device):
            labels = labels.to(torch.uint8 if len(vocabulary.classes) <= 256 else torch.int32).numpy()
            maps = {vocabulary.names[index]: maps[index].numpy() for index in keep}
            yield Segmentation(labels, confidence.numpy(), list(vocabulary.names), sample.given, settings, maps)

    @torch.no_grad()
    def predict_each(
        self,
        samples: Iterable[Sample],
        vocabulary: Vocabulary,
        rule: LabelRule | None = None,
        batch_windows: int | None = None,
        keep: Iterable[int] = (),
        confidence: bool = True,
    ) -> Iterator[tuple[Sample, LabelMap]]:
        """Each sample with its label map, in order: the one loop of evaluation, folders and pages.

        Windows of several samples share batches; nevertheless, the labels of an image depend on that image alone.
        Samples are taken only as batches need them. rule: default the model's own. batch_windows: see `segment`. keep:
        classes whose score maps are wanted, by index. confidence: whether the winning scores are. The tensors are on
        the model's device; see `to_host`.
        """
        rule, keep = rule or self.label_rule, tuple(keep)
        for sample, image, scores in self.score_each(samples, vocabulary, batch_windows):
            given = sample.size, vocabulary, rule, keep, sample.name, confidence
            yield sample, self.decided(scores, image, *given)

    def predict(
        self,
        image: Tensor,
        size: tuple[int, int],
        vocabulary: Vocabulary,
        threshold: float | None = None,
        batch_windows: int | None = None,
        name: str | None = None,
    ) -> LabelMap:
        """The label map of one image, as given by `prepare` or `staged`, at `size` (H, W), on the model's device."""
        rule = self.label_rule.with_threshold(threshold)
        return next(self.predict_each([Sample(image, size, name)], vocabulary, rule, batch_windows))[1]

    def decided(self, scores, image, size, vocabulary, rule, keep=(), name=None, confidence: bool = True) -> LabelMap:
        """The label map at `size` (H, W) from the scores of a prepared image (3, h, w), by any label rule."""
        owners = vocabulary.class_of_query if self.queries == "words" else vocabulary.name_queries[1]
        penalty = dict(rule.subtract)  # by class name
        subtract = tuple(penalty.get(vocabulary.names[index], 0.0) for index in owners) if penalty else None
        subtract = subtract and on_device(subtract, self.device)  # (Q,)
        owners = on_device(owners, self.device)  # (Q,)
        if self.refinement is None:
            return label_map(scores, size, rule, owners, subtract, keep, confidence=confidence)
        guide = F.interpolate(image[None], size, mode="bilinear")[0]  # (3, H, W)
        text = self.encode_classes(vocabulary)  # (Q, E), or (Q, P, E)
        known = Guide(guide, name, len(text), text if text.dim() == 2 else None)
        refine = partial(self.refinement, guide=known)
        return refined_label_map(scores, size, rule, owners, refine, subtract, keep, confidence=confidence)

    def refinement_settings(self) -> dict:
        """The part of `settings` about the refinement."""
        return {} if self.refinement is None else {"refine": self.refinement.settings()}
