"""The augmentation of the published training runs: scale, crop, flip, photometric distortion, padding, in this order.

Some runs distort before they flip, which makes the same images. Everything random comes from the generator that is
passed in.

Photometric distortion is random brightness, contrast, saturation and hue (Liu et al., SSD, 2016, §2.2). Each is applied
to half of the images. As in the published runs, values are rounded down to 8 bits after each step; only saturation and
hue share one conversion to HSV and back.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from datasets.folder import checked_names, is_whole
from datasets.label_map import VOID
from proxyclip.errors import InputError, nearest
from proxyclip.images import resize, scaled_size

Range = tuple[float, float]
PADDED = -3  # the label of padding, until pixels become floats: then the padding gets its colour, and is void
MAX_CROPS = 10
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IDENTITY = np.arange(256, dtype=np.float32)
HUES = 180  # OpenCV's hues: one is 2 degrees


@dataclass(frozen=True)
class Augment:
    """`augment(image, label, rng)`: (H, W, 3) uint8, (H, W) int32 -> (c, c, 3) uint8, (c, c) int16, where c is `crop`.

    scale, ratio: both lengths of `scale` are multiplied by a factor drawn from the range `ratio`; the image is resized,
    keeping its aspect ratio, to the largest size whose long side is at most the longer of them, and whose short side is
    at most the shorter. antialias: whether that is done by Pillow with antialiasing, as in detectron2, instead of by
    OpenCV. crop: side of the random crop. max_share: a crop is drawn again, ten times at most, until it shows more than
    one class and none covers this share of its labelled pixels (1: the first crop is taken). flip: probability of a
    horizontal flip.

    distort: whether to distort colours, on the scale 0 to 255. brightness: the most that is added or subtracted.
    contrast, saturation: ranges of the factors. hue: the largest turn to either side, in units of 2 degrees.

    padding: RGB in [0, 1] of the pixels beyond an image that is smaller than the crop, at its right and bottom. Their
    label is PADDED; `datasets.training.to_tensors` gives them the colour, which 8 bits need not hold, and makes them
    void. The default becomes 0 when the image is normalised with ImageNet's mean.

    Raises InputError for a value that is not allowed.
    """

    scale: tuple[int, int] = (2048, 512)
    ratio: Range = (0.5, 2.0)
    crop: int = 512
    max_share: float = 0.75
    flip: float = 0.5
    distort: bool = True
    brightness: float = 32
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: int = 18
    padding: tuple[float, float, float] = IMAGENET_MEAN
    antialias: bool = False

    def __post_init__(self):
        check_pair("scale", self.scale, lambda value: is_whole(value, 1), "whole numbers of pixels")
        check_range("ratio", self.ratio, above_zero=True)
        check_range("contrast", self.contrast)
        check_range("saturation", self.saturation)
        check("crop", self.crop, is_whole(self.crop, 1), "a whole number of pixels, at least 1")
        check("max_share", self.max_share, is_number(self.max_share, 0, 1) and self.max_share > 0, "in (0, 1]")
        check("flip", self.flip, is_number(self.flip, 0, 1), "a probability from 0 to 1")
        for name in ("distort", "antialias"):
            check(name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        check("brightness", self.brightness, is_number(self.brightness, 0, 255), "a number from 0 to 255")
        check("hue", self.hue, is_whole(self.hue, 0, 90), "a whole number from 0 to 90")
        colour = isinstance(self.padding, tuple) and len(self.padding) == 3
        colour = colour and all(is_number(part, 0, 1) for part in self.padding)
        check("padding", self.padding, colour, "three numbers from 0 to 1")

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, label = self.cut(image, label, rng)
        height, width = label.shape
        padded = np.zeros((self.crop, self.crop, 3), np.uint8), np.full((self.crop, self.crop), PADDED, np.int16)
        padded[0][:height, :width], padded[1][:height, :width] = image, label
        return padded

    def cut(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Everything but the padding: (H, W, 3) uint8, (H, W) int32 -> (h, w, 3) uint8, (h, w) int32; h, w <= c."""
        image, label = self.rescale(image, label, rng)
        image, label = self.crop_at_random(image, label, rng)
        if rng.random() < self.flip:
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        if self.distort:
            image = distort(image, rng, self.brightness, self.contrast, self.saturation, self.hue)
        return image, label

    def rescale(self, image, label, rng):
        factor = rng.uniform(*self.ratio)
        long_side, short_side = (max(1, int(side * factor)) for side in (max(self.scale), min(self.scale)))
        size = scaled_size(*label.shape, short_side, long_side)
        # (h, w, 3), (h, w)
        return resize(image, size, self.antialias), cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)

    def crop_at_random(self, image, label, rng):
        height, width = (min(side, self.crop) for side in label.shape)
        for attempt in range(MAX_CROPS + 1):
            top, left = (rng.integers(side - kept + 1) for side, kept in zip(label.shape, (height, width), strict=True))
            window = np.s_[top : top + height, left : left + width]
            if self.max_share == 1 or attempt == MAX_CROPS or self.is_mixed(label[window]):
                break
        return np.ascontiguousarray(image[window]), np.ascontiguousarray(label[window])  # (h, w, 3), (h, w)

    def is_mixed(self, label: np.ndarray) -> bool:
        """Whether (h, w) shows more than one class, and none on `max_share` of the labelled pixels or more."""
        counts = np.bincount((label - UNLABELLED).ravel())[-UNLABELLED:]  # (K',): pixels of each class
        return np.count_nonzero(counts) > 1 and counts.max() < self.max_share * counts.sum()


def distort(
    image: np.ndarray, rng: np.random.Generator, brightness: float, contrast: Range, saturation: Range, hue: int
) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same shape. The parameters are those of `Augment`.

    In this order: brightness, contrast, saturation, hue; half of the time contrast comes last.
    """
    before, after = IDENTITY, IDENTITY  # (256,): what each value becomes
    if toss_coin(rng):
        before = round_down(before + rng.uniform(-brightness, brightness))
    if toss_coin(rng):
        factor = rng.uniform(*contrast)
        if toss_coin(rng):
            before = round_down(before * factor)
        else:
            after = round_down(after * factor)
    image = cv2.LUT(image, before.astype(np.uint8))
    image = distort_hue(image, rng, saturation, hue)
    return cv2.LUT(image, after.astype(np.uint8))


def distort_hue(image: np.ndarray, rng: np.random.Generator, saturation: Range, hue: int) -> np.ndarray:
    tables = np.stack([IDENTITY] * 3, axis=-1)[:, None]  # (256, 1, 3): what each hue, saturation and value becomes
    saturate, turn = toss_coin(rng), toss_coin(rng)
    if saturate:
        tables[..., 1] = round_down(tables[..., 1] * rng.uniform(*saturation))
    if turn:
        tables[..., 0] = (tables[..., 0] + rng.integers(-hue, hue + 1)) % HUES
    if not (saturate or turn):
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # (H, W, 3)
    return cv2.cvtColor(cv2.LUT(hsv, tables.astype(np.uint8)), cv2.COLOR_HSV2RGB)


def round_down(values: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(values, 0, 255))


def toss_coin(rng: np.random.Generator) -> bool:
    return rng.random() < 0.5


def is_number(value, lowest: float, highest: float) -> bool:
    return type(value) in (int, float) and lowest <= value <= highest


def check(name: str, value, allowed: bool, what: str) -> None:
    if not allowed:
        raise InputError(f"augment: {name} must be {what}, not {value!r}")


def check_pair(name: str, value, allowed, what: str) -> None:
    pair = isinstance(value, tuple) and len(value) == 2
    check(name, value, pair and all(map(allowed, value)), f"a tuple of two {what}")


def check_range(name: str, value, above_zero: bool = False) -> None:
    check_pair(name, value, lambda part: is_number(part, 0, 100), "numbers (lowest, highest)")
    check(name, value, value[0] <= value[1], "(lowest, highest) in this order")
    check(name, value, value[0] > 0 or not above_zero, "above 0")


UNLABELLED = -2  # in a label map for training: a pixel of an unseen class, whichever it is


@dataclass(frozen=True)
class LabelTable:
    """A new label for each class of a dataset: `table(label)` applies it to a label map. Void stays void.

    setting: "inductive", "transductive" or "fully". names: of the classes that the new labels 0, 1, ... stand for.
    values: new label of each of the dataset's classes.
    """

    setting: str
    names: tuple[str, ...]
    values: tuple[int, ...]

    @classmethod
    def inductive(cls, classes: tuple[str, ...], seen: tuple[str, ...]) -> "LabelTable":
        """Seen classes are numbered in the order of `classes`; pixels of unseen classes are void.

        Raises InputError for a name that is not a class, or is given twice.
        """
        names = seen_in_order(classes, seen)
        return cls("inductive", names, tuple(names.index(name) if name in names else VOID for name in classes))

    @classmethod
    def transductive(cls, classes: tuple[str, ...], seen: tuple[str, ...]) -> "LabelTable":
        """Seen classes keep their number; pixels of unseen classes are UNLABELLED. Errors as in `inductive`."""
        names = seen_in_order(classes, seen)
        values = (index if name in names else UNLABELLED for index, name in enumerate(classes))
        return cls("transductive", tuple(classes), tuple(values))

    @classmethod
    def fully(cls, classes: tuple[str, ...]) -> "LabelTable":
        """All classes keep their number."""
        names = checked_names(classes, "classes")
        return cls("fully", names, tuple(range(len(names))))

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """(H, W) int32, class numbers or VOID -> (H, W) int32; InputError for any other value."""
        if label.min() < VOID or label.max() >= len(self.values):
            known = f"{VOID} (void) ... {len(self.values) - 1}"
            raise InputError(f"a label map has values from {label.min()} to {label.max()}, not {known}")
        return np.array([VOID, *self.values], np.int32)[label + 1]


def seen_in_order(classes: tuple[str, ...], seen: tuple[str, ...]) -> tuple[str, ...]:
    """The seen classes in the order of all classes."""
    classes, seen = checked_names(classes, "classes"), checked_names(seen, "seen")
    if not seen:
        raise InputError("seen must name at least one class")
    for name in seen:
        if name not in classes:
            raise InputError(f"seen: there is no class {name!r}; {nearest(name, classes)}")
    return tuple(name for name in classes if name in seen)
