"""The contract of every method and head, and the one loop from images to label maps.

Shapes: B windows of c × c pixels, h × w the scores of one window, Q queries, E CLIP's joint embedding width, P prompts
per class, H × W the image.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.images import MAX_PIXELS, Resize, read_image, to_tensor
from proxyclip.labels import LabelMap, LabelRule, decide_labels
from proxyclip.options import fits
from proxyclip.refine import Guide, Refinement
from proxyclip.segmentation import Segmentation
from proxyclip.vocabulary import Vocabulary, list_of_names, warn_unknown, with_background
from proxyclip.windows import Batches, SlidingWindows, WindowScores, score_images, windows_per_batch

ONE_WINDOW = 1024  # pixels of an image that is neither cut nor resized, for the size of a batch
COPIES_AHEAD = 2  # label maps that are copied to the host while an accelerator goes on


class Sample(NamedTuple):
    """An image on its way through a model.

    image: from `Segmentor.prepare` or `Segmentor.pin`, a list for several scales. size: height and width of the label
    map. name: by which a refinement finds its masks. item: anything that belongs to the image; it comes out with the
    label map.
    """

    image: Tensor
    size: tuple[int, int]
    name: str | None = None
    item: Any = None


class Segmentor(nn.Module):
    """A model that assigns one of the given names to every pixel.

    A method or head defines `method`, `encode_classes`, `window_scores` and `settings`, and overrides `image_scores` if
    its windows depend on each other or on the whole image. Everything else is written once, here.

    method: the name as printed in papers, for records and tables. queries: "names" for models that use the class names
    of a benchmark instead of its prompts ("boat", not "ship"): see `Vocabulary.name_queries`. antialias, long_side: how
    images are resized, see `Resize`. scales, flip: test-time augmentation: the scores of the image at several multiples
    of its size, and of their mirror images, are averaged. window_size: height and width that the scores of a window are
    upsampled to first, if not its own; it matters where the label rule applies a sigmoid there. refinement: of the
    score maps at the size of the image, or None; see `proxyclip.refine`.
    """

    method: str
    queries: str = "words"
    antialias: bool = False
    long_side: int = 2048
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
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
        short side, keeping their aspect ratio, with a long side of at most `long_side` (0: not resized).
        padding_colour: RGB in [0, 1] of pixels beyond the image. patch_size: size of the smallest patches. known_words:
        all names that a small CLIP was trained on; others raise a warning."""
        super().__init__()
        self.windows, self.label_rule, self.short_side = windows, label_rule, short_side
        self.patch_size, self.known_words = patch_size, known_words
        self.refinement: Refinement | None = None
        self.compiled = False
        self._batches: dict[tuple, Batches] = {}  # a size that does not fit in memory is tried once
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
        return next(self._score_windows([(None, image)], text, batch_windows))[2]

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
            **self.added_settings(),
        }

    def added_settings(self) -> dict:
        """The part of `settings` about what may be added to any method: augmentation and refinement."""
        added = {"flip": True} if self.flip else {}
        if self.scales != (1.0,):
            added["scales"] = list(self.scales)
        return added if self.refinement is None else added | {"refine": self.refinement.settings()}

    # Segmenting

    def segment(
        self,
        images,
        classes,
        *,
        threshold: float | None = None,
        synonyms: str = "sum",
        batch_windows: int | None = None,
        probabilities=(),
        max_pixels: int = MAX_PIXELS,
        background: str = "none",
        names=None,
    ) -> Segmentation | list[Segmentation]:
        """Labels every pixel of one image, or of each image in a list.

        images: a path, a PIL image, an (H, W, 3) uint8 array, or a list of these. classes: names; one class may have
        several, "car; truck". threshold: pixels with a winning score below it get label 0 (default: that of the label
        rule). synonyms: a class with several names gets the "sum" of their probabilities, or the "best" of them as in
        published benchmarks; it matters after a softmax only. batch_windows: windows per batch (default: depends on
        their size and the device). probabilities: classes whose probability maps the result contains. background:
        "threshold" or "vocabulary" puts a class for everything else before the others: see
        `proxyclip.vocabulary.with_background`. names: of the images, by which masks in a folder are found (default:
        those of the files, without their endings). Returns a Segmentation, or a list of them. Raises InputError or
        NotFound for invalid input.
        """
        several = isinstance(images, (list, tuple))
        if names is not None:
            names = list_of_names(names if several else [names], "names")
            if several and len(names) != len(images):
                raise InputError(f"{len(names)} names were given for {len(images)} images; give one for each")
        results = self.segment_each(
            images if several else [images],
            classes,
            threshold=threshold,
            synonyms=synonyms,
            batch_windows=batch_windows,
            probabilities=probabilities,
            max_pixels=max_pixels,
            background=background,
            names=names,
        )
        return list(results) if several else next(results)

    @torch.no_grad()
    def segment_each(
        self,
        images,
        classes,
        *,
        threshold: float | None = None,
        synonyms: str = "sum",
        batch_windows: int | None = None,
        probabilities=(),
        max_pixels: int = MAX_PIXELS,
        background: str = "none",
        names=None,
    ) -> Iterator[Segmentation]:
        """Like `segment`, but yields one result at a time, for more images than fit in memory."""
        if not fits(max_pixels, float) or max_pixels < 1:
            raise InputError(f"max_pixels is {max_pixels!r}; choose a number of pixels, such as {MAX_PIXELS}")
        vocabulary = classes if isinstance(classes, Vocabulary) else Vocabulary.parse(classes)
        if background != "none":
            vocabulary, threshold = with_background(vocabulary, background, threshold)
        keep = [vocabulary.index(name) for name in list_of_names(probabilities, "probabilities")]
        rule = replace(self.label_rule.with_threshold(threshold), synonyms=synonyms)
        warn_unknown(vocabulary, self.known_words)
        settings = self.settings() | {"threshold": rule.threshold, "synonyms": synonyms}

        def samples() -> Iterator[Sample]:
            for source, name in with_names(images, names):
                image = read_image(source, max_pixels)  # (H, W, 3) uint8
                yield Sample(self.pin(self.resize(image)), image.shape[:2], name, image)

        predictions = self.predict_each(samples(), vocabulary, rule, batch_windows, keep)
        for sample, (labels, confidence, maps) in to_host(predictions, self.device):
            labels = labels.to(torch.uint8 if len(vocabulary.classes) <= 256 else torch.int32).numpy()
            maps = {vocabulary.names[index]: maps[index].numpy() for index in keep}
            yield Segmentation(labels, confidence.numpy(), list(vocabulary.names), sample.item, settings, maps)

    # The one loop of evaluation, folders, the page and `segment`

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
        """Each sample with its label map, in order.

        Windows of several samples share batches; nevertheless, the labels of an image depend on that image alone.
        Samples are taken only as batches need them. rule: default the model's own. batch_windows: see `segment`. keep:
        classes whose score maps are wanted, by index. confidence: whether the winning scores are. The tensors are on
        the model's device; see `to_host`.
        """
        rule, keep = rule or self.label_rule, tuple(keep)
        for sample, image, scores in self.score_each(samples, vocabulary, batch_windows):
            yield sample, self.decide(scores, image, sample, vocabulary, rule=rule, keep=keep, confidence=confidence)

    def predict(
        self,
        image: Tensor,
        size: tuple[int, int],
        vocabulary: Vocabulary,
        threshold: float | None = None,
        batch_windows: int | None = None,
        name: str | None = None,
    ) -> LabelMap:
        """The label map of one image, from `prepare` or `pin`, at `size` (H, W), on the model's device."""
        rule = self.label_rule.with_threshold(threshold)
        return next(self.predict_each([Sample(image, size, name)], vocabulary, rule, batch_windows))[1]

    def score_each(
        self, samples: Iterable[Sample], vocabulary: Vocabulary, batch_windows: int | None = None
    ) -> Iterator[tuple[Sample, Tensor, WindowScores]]:
        """Each sample with its image on the device, (3, h, w) in [0, 1], and its scores, in order; see `decide`.

        Windows of several images share batches, unless a method looks at whole images.
        """
        text = self.encode_classes(vocabulary)  # (Q, E) or (Q, P, E)
        if type(self).image_scores is Segmentor.image_scores:
            scored = self._score_windows(self.views_of(samples), text, batch_windows)
        else:
            scored = self._score_whole_images(self.views_of(samples), text, batch_windows)
        count, images, views = len(self.scales) * (1 + self.flip), [], []
        for (sample, flipped), image, scores in scored:
            images.append(image)
            views += [replace(view, weight=view.weight / count, flipped=flipped) for view in scores.views]
            if len(images) == count:
                yield sample, images[0], WindowScores(tuple(views))
                images, views = [], []

    def views_of(self, samples: Iterable[Sample]) -> Iterator[tuple[tuple[Sample, bool], Tensor]]:
        """The images (3, h, w) that are scored for each sample: one for each scale, and its mirror image with `flip`.

        Each comes with its sample, and with whether it is the mirror image."""
        for sample in samples:
            for pinned in sample.image if isinstance(sample.image, (list, tuple)) else [sample.image]:
                image = self.upload(pinned)
                yield (sample, False), image
                if self.flip:
                    yield (sample, True), image.flip(2)

    def _score_whole_images(self, images, text: Tensor, batch_windows: int | None):
        """As `_score_windows`, for a method whose windows depend on the whole image."""
        for item, image in images:
            with exact_float32(self.device):
                scores = self.image_scores(image, text, batch_windows)
            yield item, image, scores

    def decide(
        self,
        scores: WindowScores,
        image: Tensor,
        sample: Sample,
        vocabulary: Vocabulary,
        *,
        rule: LabelRule,
        keep: Iterable[int] = (),
        confidence: bool = True,
    ) -> LabelMap:
        """The label map of a sample, by any label rule, from its scores and its image (3, h, w) on the device."""
        classes = vocabulary.class_of_query if self.queries == "words" else vocabulary.name_queries[1]
        penalties = dict(rule.subtract)  # by class name
        subtract = tuple(penalties.get(vocabulary.names[index], 0.0) for index in classes) if penalties else None
        index_type = torch.uint8 if max(classes) < 256 else torch.int32
        with exact_float32(self.device):
            return decide_labels(
                scores,
                sample.size,
                rule,
                constant(tuple(classes), index_type, self.device),  # (Q,)
                names_per_class=tuple(Counter(classes).values()),
                subtract=subtract and constant(subtract, torch.float32, self.device),  # (Q,)
                keep=keep,
                confidence=confidence,
                refine=self.refinement and self._refinement_of(image, sample, vocabulary),
            )

    def _refinement_of(self, image: Tensor, sample: Sample, vocabulary: Vocabulary):
        """The refinement of one image's maps, which is guided by the image as the model sees it."""
        text = self.encode_classes(vocabulary)  # (Q, E), or (Q, P, E)
        guide = F.interpolate(image[None], sample.size, mode="bilinear")[0]  # (3, H, W)
        return partial(self.refinement, guide=Guide(guide, sample.name, len(text), text if text.dim() == 2 else None))

    # From an image to the device, and windows in batches

    def prepare(self, image: np.ndarray):
        """(H, W, 3) uint8 -> the resized image (3, h, w) in [0, 1] on the model's device; a list for several scales."""
        pinned = self.pin(self.resize(image))
        return [self.upload(one) for one in pinned] if isinstance(pinned, list) else self.upload(pinned)

    def pin(self, image):
        """A resized image (h, w, 3) uint8, ready for `upload`: the part of `prepare` that any thread may do ahead.

        On a CPU, (3, h, w) in [0, 1]; for CUDA (h, w, 3) uint8 in pinned memory, which the device reads by itself. A
        list for a list of images.
        """
        if isinstance(image, list):
            return [self.pin(one) for one in image]
        if self.device.type == "cpu":
            return to_tensor(image)
        pixels = torch.from_numpy(np.ascontiguousarray(image))  # (h, w, 3)
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def upload(self, image: Tensor) -> Tensor:
        """An image from `pin` or `prepare` -> (3, h, w) in [0, 1] on the model's device, without waiting for it."""
        image = image.to(self.device, non_blocking=True)
        return image.permute(2, 0, 1).float().div(255) if image.dtype == torch.uint8 else image  # (3, h, w)

    @property
    def resize(self) -> Resize:
        """(H, W, 3) uint8 -> the resized image (h, w, 3) uint8, in any process."""
        return Resize(self.short_side, self.long_side, self.antialias, self.scales)

    @property
    def device(self) -> torch.device:
        return self.padding_colour.device

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

    def _score_windows(self, images, text: Tensor, batch_windows: int | None):
        """See `score_images`."""
        return score_images(
            partial(self.window_scores, text=text),
            images,
            windows=self.windows,
            padding_colour=self.padding_colour,
            batches=self.batches(batch_windows),
            window_size=self.window_size,
        )

    def compile_scores(self, backend: str = "inductor") -> None:
        """Compiles `window_scores` when it is first used; see `CompiledScores`."""
        from proxyclip.backbones.backends import CompiledScores

        self.window_scores, self.compiled = CompiledScores(self.window_scores, backend), True


@lru_cache(maxsize=16)
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor that is copied to an accelerator once."""
    return torch.tensor(values, dtype=dtype, device=device)


def check_scales(scales: tuple[float, ...]) -> None:
    """InputError unless these can be the scales of a test-time augmentation."""
    if not scales or not all(0.1 <= scale <= 10 for scale in scales) or len(set(scales)) < len(scales):
        raise InputError(f"scales are {scales}; choose different numbers from 0.1 to 10, as in 0.75,1,1.25")


def with_names(images, names) -> Iterator[tuple]:
    """Each image with its name: that of the list, or that of a file; None where there is neither."""
    if names is not None:
        yield from zip(images, names, strict=True)
        return
    for source in images:
        yield source, Path(source).stem if isinstance(source, (str, os.PathLike)) else None


def to_host(predictions: Iterable[tuple[Sample, LabelMap]], device: torch.device) -> Iterator[tuple[Sample, LabelMap]]:
    """The same label maps in the host's memory, in order.

    CUDA does not wait: maps are copied to pinned memory behind its work and yielded when they have arrived, up to
    COPIES_AHEAD images later, in ordinary memory, since pinned memory is scarce.
    """
    if device.type != "cuda":
        for sample, label_map in predictions:
            yield sample, label_map.map(Tensor.cpu)
        return
    copies = deque()

    def oldest() -> tuple[Sample, LabelMap]:
        sample, pinned, arrived = copies.popleft()
        arrived.synchronize()
        return sample, pinned.map(Tensor.clone)

    for sample, label_map in predictions:
        pinned = label_map.map(partial(Tensor.to, device="cpu", non_blocking=True))
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(device))
        copies.append((sample, pinned, arrived))
        if len(copies) > COPIES_AHEAD:
            yield oldest()
    while copies:
        yield oldest()
