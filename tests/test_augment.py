"""The augmentation against slow and plain versions of its steps."""

import colorsys
import itertools
import math
from collections import Counter
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.augment import IMAGENET_MEAN, UNLABELLED, Augment, distort
from datasets.label_map import VOID
from datasets.training import to_tensors
from proxyclip.errors import InputError

PLAIN = {"ratio": (1.0, 1.0), "flip": 0.0, "distort": False, "max_share": 1.0}


def random_pair(height, width, seed=0, classes=5):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(-2, classes, (height, width), np.int32)


def augmented(augment, image, label, seed=0):
    """(c, c, 3) float32 in [0, 1], (c, c) int64."""
    arrays = augment(image, label, np.random.default_rng(seed))
    images, labels = to_tensors(*(torch.from_numpy(array[None]) for array in arrays), augment.padding)
    return images[0].permute(1, 2, 0).numpy(), labels[0].numpy()


def blocks(height, width, side, seed, values):
    """(H, W) int32: squares of random values."""
    rng = np.random.default_rng(seed)
    small = rng.choice(np.array(values, np.int32), (-(-height // side), -(-width // side)))
    return np.kron(small, np.ones((side, side), np.int32))[:height, :width]


# --- resize


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (100, 900), (900, 60), (1, 7), (512, 512), (1200, 1600)])
@pytest.mark.parametrize(
    "scale, factor", [((2048, 512), 1.0), ((2048, 512), 0.5), ((2048, 512), 1.7777), ((520, 520), 0.75)]
)
def test_the_largest_size_that_fits_the_scale(size, scale, factor):
    augment = Augment(scale=scale, ratio=(factor, factor), crop=4096)
    image, label = augment.rescale(*random_pair(*size), np.random.default_rng(0))
    longest, shortest = (int(factor * side) for side in scale)
    zoom = min(Fraction(longest, max(size)), Fraction(shortest, min(size)))
    expected = tuple(max(1, math.floor(side * zoom + Fraction(1, 2))) for side in size)
    assert image.shape == (*expected, 3) and label.shape == expected
    assert max(expected) <= longest and min(expected) <= max(1, shortest)


def test_the_scale_may_be_given_short_side_first():
    pair, rng = random_pair(30, 50), np.random.default_rng
    first, second = (Augment(scale=scale).rescale(*pair, rng(0))[1] for scale in ((2048, 512), (512, 2048)))
    assert np.array_equal(first, second)


def test_the_factor_is_drawn_evenly_from_the_range():
    augment, rng = Augment(scale=(100, 100), ratio=(0.5, 2.0)), np.random.default_rng(0)
    pair = random_pair(1, 10)
    sides = [augment.rescale(*pair, rng)[1].shape[1] for _ in range(2000)]
    counts, _ = np.histogram(sides, bins=5, range=(50, 200))
    assert min(sides) in (50, 51) and max(sides) in (198, 199)
    assert counts.min() > 330 and counts.max() < 470


@pytest.mark.parametrize("size", [(13, 22), (40, 31), (8, 90)])
def test_images_are_interpolated_and_labels_are_not(size):
    """Pixel centres aligned, no antialiasing; a label is that of the pixel whose area starts before it."""
    image, label = random_pair(*size)
    augment = Augment(scale=(64, 24), ratio=(1.0, 1.0))
    resized, relabelled = augment.rescale(image, label, np.random.default_rng(0))
    (height, width), (new_height, new_width) = size, relabelled.shape
    for row in range(new_height):
        for column in range(new_width):
            assert relabelled[row, column] == label[row * height // new_height, column * width // new_width]
            y = min(max((row + 0.5) * height / new_height - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / new_width - 0.5, 0), width - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = (1 - x + left) * image[top, left] + (x - left) * image[top, right]
            lower = (1 - x + left) * image[bottom, left] + (x - left) * image[bottom, right]
            assert np.abs((1 - y + top) * upper + (y - top) * lower - resized[row, column]).max() < 1


def test_antialiasing_is_that_of_pillow_and_leaves_labels_alone():
    image, label = random_pair(60, 90)
    augments = [Augment(scale=(99, 20), ratio=(1.0, 1.0), antialias=choice) for choice in (False, True)]
    pairs = [augment.rescale(image, label, np.random.default_rng(0)) for augment in augments]
    pillow = Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(pairs[1][0], pillow) and not np.array_equal(pairs[0][0], pillow)
    assert np.array_equal(pairs[0][1], pairs[1][1])


# --- crop


def coordinates(height, width):
    """An image that tells where each pixel is from: (H, W, 3) uint8, row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def plain_crop(label, side, max_share, rng):
    """Top and left: the first of ten crops with several classes of which none is too large, or else the eleventh."""
    height, width = min(side, len(label)), min(side, len(label[0]))
    for attempt in range(11):
        top, left = rng.integers(len(label) - height + 1), rng.integers(len(label[0]) - width + 1)
        counts = Counter(int(value) for row in label[top : top + height] for value in row[left : left + width])
        labelled = {value: count for value, count in counts.items() if value >= 0}
        if attempt == 10 or (len(labelled) > 1 and max(labelled.values()) / sum(labelled.values()) < max_share):
            return top, left
    raise AssertionError


@pytest.mark.parametrize(
    "values",
    [
        (0, 0, 0, 1, 2),
        (VOID, VOID, VOID, 0, 1),
        (UNLABELLED, UNLABELLED, 0, 1),
        (3, 3, 3, 3, 3, 3, 3, VOID, 4),
        (VOID,),
    ],
    ids=["mixed", "mostly void", "mostly unlabelled", "rarely mixed", "all void"],
)
@pytest.mark.parametrize("max_share", [0.75, 0.6])
def test_the_crop_is_the_first_of_eleven_that_is_mixed(values, max_share):
    size = (41, 60)
    augment = Augment(crop=16, max_share=max_share)
    tried = set()
    for seed in range(40):
        label = blocks(*size, 9, seed, values)
        image, cropped = augment.crop_at_random(coordinates(*size), label, rng := np.random.default_rng(seed))
        plain_rng = np.random.default_rng(seed)
        top, left = plain_crop(label.tolist(), 16, max_share, plain_rng)
        assert image[0, 0].tolist() == [top, left, 0] and image[-1, -1].tolist() == [top + 15, left + 15, 0]
        assert np.array_equal(cropped, label[top : top + 16, left : left + 16])
        assert (after := rng.random()) == plain_rng.random()  # as many tries
        tried.add(after)
    assert len(tried) == 40


def test_a_share_of_exactly_the_limit_is_too_much():
    label = np.array([[0, 0, 0, 1], [VOID, VOID, UNLABELLED, UNLABELLED]], np.int32)
    assert not Augment(max_share=0.75).is_mixed(label)
    assert Augment(max_share=0.76).is_mixed(label)
    assert not Augment(max_share=0.99).is_mixed(np.zeros((2, 3), np.int32))


def test_without_a_limit_the_first_crop_is_taken():
    label, rng, expected = np.full((9, 7), VOID, np.int32), np.random.default_rng(0), np.random.default_rng(0)
    Augment(crop=4, max_share=1.0).crop_at_random(coordinates(9, 7), label, rng)
    expected.integers(6), expected.integers(4)
    assert rng.random() == expected.random()


def test_every_place_is_cropped():
    augment, rng = Augment(crop=4, max_share=1.0), np.random.default_rng(0)
    image, label = coordinates(6, 7), np.zeros((6, 7), np.int32)
    places = {tuple(augment.crop_at_random(image, label, rng)[0][0, 0, :2].tolist()) for _ in range(400)}
    assert places == {(row, column) for row in range(3) for column in range(4)}


# --- flip


def test_a_flip_mirrors_image_and_label():
    for seed in range(10):
        pair = random_pair(40, 70, seed)
        image, label = Augment(scale=(90, 50), crop=32, flip=0.0).cut(*pair, np.random.default_rng(seed))
        mirrored = Augment(scale=(90, 50), crop=32, flip=1.0).cut(*pair, np.random.default_rng(seed))
        assert np.array_equal(mirrored[0], image[:, ::-1]) and np.array_equal(mirrored[1], label[:, ::-1])


def test_half_of_all_images_are_flipped():
    image, label = coordinates(3, 5), np.zeros((3, 5), np.int32)
    augment, rng = Augment(**PLAIN | {"scale": (5, 3), "crop": 5, "flip": 0.5}), np.random.default_rng(0)
    flipped = sum(augment.cut(image, label, rng)[0][0, 0, 1] == 4 for _ in range(1000))
    assert 440 < flipped < 560


def test_image_and_label_stay_together():
    """The colour of each pixel says its label, through all of resize, crop and flip."""
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], np.uint8)
    for seed in range(30):
        label = blocks(90, 130, 30, seed, range(4))
        augment = Augment(scale=(200, 100), crop=64, distort=False)
        image, label = augmented(augment, colours[label], label, seed)
        inside = label >= 0
        for step in itertools.product((-2, 0, 2), repeat=2):  # pixels near another label are a mixture
            inside &= np.roll(label, step, (0, 1)) == label
        inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False
        assert inside.mean() > 0.2
        assert np.abs(image[inside] * 255 - colours[label[inside]]).max() < 0.01


# --- photometric distortion


def eight_bit(value):
    return min(max(math.floor(value), 0), 255)


def plain_distort(image, rng, brightness, contrast, saturation, hue):
    """One pixel after the other, with the same random numbers."""
    steps = []
    if rng.random() < 0.5:
        shift = rng.uniform(-brightness, brightness)
        steps.append(lambda pixel: [eight_bit(value + shift) for value in pixel])
    last = []
    if rng.random() < 0.5:
        factor = rng.uniform(*contrast)
        (steps if rng.random() < 0.5 else last).append(lambda pixel: [eight_bit(value * factor) for value in pixel])
    saturated, turned = rng.random() < 0.5, rng.random() < 0.5
    gain = rng.uniform(*saturation) if saturated else 1
    turn = int(rng.integers(-hue, hue + 1)) if turned else 0

    def through_hsv(pixel):
        h, s, v = colorsys.rgb_to_hsv(*(value / 255 for value in pixel))
        h, s = (round(h * 180) + turn) % 180 / 180, eight_bit(round(s * 255) * gain) / 255
        return [round(255 * value) for value in colorsys.hsv_to_rgb(h, s, v)]

    if saturated or turned:
        steps.append(through_hsv)
    result = []
    for pixel in image.reshape(-1, 3).tolist():
        for step in steps + last:
            pixel = step(pixel)
        result.append(pixel)
    return np.array(result).reshape(image.shape)


def test_distortion_is_that_of_the_plain_version():
    settings = {"brightness": 32, "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": 18}
    off, changed = [], 0
    for seed in range(150):
        image, _ = random_pair(5, 7, seed)
        distorted = distort(image, np.random.default_rng(seed), **settings)
        off.append(np.abs(distorted - plain_distort(image, np.random.default_rng(seed), **settings)))
        changed += not np.array_equal(distorted, image)
        assert distorted.dtype == np.uint8
    # A hue that is rounded the other way makes 2 degrees, up to 8.5 of 255.
    assert np.max(off) <= 9 and np.mean(off) < 0.1
    assert 130 < changed < 150


NONE = {"brightness": 0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0}


def extremes(name, value, measure, image):
    """Of the changes that one kind of distortion makes to a colour, and how many images it leaves alone."""
    rng = np.random.default_rng(0)
    found = [measure(distort(image, rng, **NONE | {name: value})[0, 0]) for _ in range(2000)]
    return min(found), max(found), np.mean(np.abs(np.array(found) - measure(image[0, 0])) < 1e-9)


def test_brightness_is_added():
    low, high, unchanged = extremes("brightness", 32, lambda pixel: int(pixel[0]), np.full((1, 1, 3), 100, np.uint8))
    assert low == 68 and high == 131  # rounded down
    assert 0.46 < unchanged < 0.56


def test_contrast_multiplies():
    low, high, unchanged = extremes(
        "contrast", (0.5, 1.5), lambda pixel: int(pixel[0]), np.full((1, 1, 3), 100, np.uint8)
    )
    assert low == 50 and high == 149
    assert 0.46 < unchanged < 0.56


def of_hsv(channel):
    return lambda pixel: int(cv2.cvtColor(pixel[None, None], cv2.COLOR_RGB2HSV)[0, 0, channel])


def test_saturation_multiplies():
    image = np.array([[[200, 100, 100]]], np.uint8)  # hue 0, saturation 128 of 255
    low, high, unchanged = extremes("saturation", (0.5, 1.5), of_hsv(1), image)
    assert low in range(62, 67) and high in range(188, 194)
    assert 0.46 < unchanged < 0.58


def test_hue_turns_to_both_sides():
    image = np.array([[[50, 200, 50]]], np.uint8)  # 120 degrees
    low, high, unchanged = extremes("hue", 18, of_hsv(0), image)
    assert (low, high) == (42, 78)
    assert 0.46 < unchanged < 0.58


def test_hue_goes_round():
    image = np.array([[[200, 50, 50]]], np.uint8)  # 0 degrees
    low, high, _ = extremes("hue", 18, of_hsv(0), image)
    assert low == 0 and high == 179
    assert extremes("hue", 18, lambda pixel: int(pixel[0]), image)[:2] == (200, 200)  # never beyond magenta or yellow


def test_grey_has_no_hue():
    grey = np.full((1, 1, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    assert all((distort(grey, rng, **NONE | {"hue": 18, "saturation": (0.5, 1.5)}) == 90).all() for _ in range(50))


def test_without_distortion_colours_stay():
    image, label = random_pair(20, 30)
    cut, _ = Augment(**PLAIN | {"scale": (30, 20), "crop": 30}).cut(image, label, np.random.default_rng(0))
    assert np.array_equal(cut, image)


# --- padding, and the whole


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (20, 30)])
def test_a_small_image_is_padded_at_the_right_and_below(size):
    image, label = random_pair(*size)
    augment = Augment(**PLAIN | {"scale": (max(size), min(size)), "crop": 40})
    padded, padded_label = augmented(augment, image, label)
    height, width = (min(side, 40) for side in size)
    assert padded.shape == (40, 40, 3) and padded.dtype == np.float32
    assert padded_label.shape == (40, 40) and padded_label.dtype == np.int64
    # `rng` chooses the crop along the longer side.
    places = [np.abs(padded[:height, :width] - image[y : y + height, x : x + width] / np.float32(255)).max() < 1e-7
              for y in range(size[0] - height + 1) for x in range(size[1] - width + 1)]  # fmt: skip
    assert sum(places) == 1
    outside = np.ones((40, 40), bool)
    outside[:height, :width] = False
    assert outside.any() and (padded_label[outside] == VOID).all()
    assert (padded_label[:height, :width] != VOID).any()
    normalised = (padded[outside] - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    assert (normalised == 0).all() and IMAGENET_MEAN == (0.485, 0.456, 0.406)


CAT_SEG = {"scale": (1333, 384), "ratio": (1.0, 1.0), "crop": 384, "max_share": 1.0, "padding": (128 / 255,) * 3,
           "antialias": True}  # fmt: skip


@pytest.mark.parametrize(
    "size, resized", [((427, 640), (384, 576)), ((500, 375), (512, 384)), ((100, 800), (167, 1333))]
)
def test_the_augmentation_of_cat_seg(size, resized):
    """Short side 384, crop, distortion before the flip, and what is missing grey and without a label."""
    image, label = random_pair(*size)
    flips = set()
    for seed in range(6):
        found, found_label = augmented(Augment(**CAT_SEG), image, label, seed)
        rng = np.random.default_rng(seed)
        rng.uniform(1.0, 1.0)
        height, width = (min(side, 384) for side in resized)
        top, left = rng.integers(resized[0] - height + 1), rng.integers(resized[1] - width + 1)
        flip = rng.random() < 0.5
        expected = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR))
        expected = distort(expected[top : top + height, left : left + width], rng, 32, (0.5, 1.5), (0.5, 1.5), 18)
        expected_label = cv2.resize(label, resized[::-1], interpolation=cv2.INTER_NEAREST)
        expected_label = expected_label[top : top + height, left : left + width]
        if flip:
            expected, expected_label = expected[:, ::-1], expected_label[:, ::-1]
        missing = (0, 384 - height), (0, 384 - width)
        expected = np.pad(expected, (*missing, (0, 0)), constant_values=128)
        np.testing.assert_array_equal(np.rint(found * 255), expected)
        np.testing.assert_array_equal(found_label, np.pad(expected_label, missing, constant_values=VOID))
        flips.add(bool(flip))
    assert flips == {False, True}


def test_the_colour_of_padding_can_be_chosen():
    augment = Augment(**PLAIN | {"scale": (8, 8), "crop": 9, "padding": (0.25, 0.5, 1.0)})
    padded, _ = augmented(augment, *random_pair(8, 8))
    assert padded[8].tolist() == [[0.25, 0.5, 1.0]] * 9


def test_the_same_random_numbers_give_the_same_crop_and_others_another():
    image, label = random_pair(60, 90)
    before = image.copy(), label.copy()
    augment = Augment(scale=(128, 64), crop=32)
    first, again, other = (augmented(augment, image, label, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].min() >= 0 and first[0].max() <= 1
    assert np.array_equal(image, before[0]) and np.array_equal(label, before[1])


@pytest.mark.parametrize(
    "field, value, sentence",
    [
        ("scale", (2048,), "scale must be a tuple of two whole numbers of pixels, not"),
        ("scale", (2048, 0), "scale must be a tuple of two whole numbers"),
        ("scale", 512, "scale must be a tuple of two whole numbers"),
        ("ratio", (2.0, 0.5), r"ratio must be \(lowest, highest\) in this order, not \(2.0, 0.5\)"),
        ("ratio", (0, 1), "ratio must be above 0"),
        ("ratio", (0.5, math.nan), "ratio must be a tuple of two numbers"),
        ("contrast", (0.5, "1"), "contrast must be a tuple of two numbers"),
        ("saturation", (-0.5, 1), "saturation must be a tuple of two numbers"),
        ("crop", 0, "crop must be a whole number of pixels, at least 1, not 0"),
        ("crop", 512.0, "crop must be a whole number"),
        ("crop", True, "crop must be a whole number"),
        ("max_share", 0, r"max_share must be in \(0, 1\], not 0"),
        ("max_share", 75, "max_share must be in"),
        ("flip", 1.5, "flip must be a probability from 0 to 1"),
        ("flip", True, "flip must be a probability"),
        ("distort", 1, "distort must be True or False, not 1"),
        ("antialias", 1, "antialias must be True or False, not 1"),
        ("brightness", 300, "brightness must be a number from 0 to 255"),
        ("hue", 18.0, "hue must be a whole number from 0 to 90"),
        ("hue", 91, "hue must be a whole number from 0 to 90"),
        ("padding", (0, 0, 255), "padding must be three numbers from 0 to 1"),
        ("padding", 0.5, "padding must be three numbers"),
    ],
)
def test_wrong_parameters(field, value, sentence):
    with pytest.raises(InputError, match=f"^augment: {sentence}"):
        Augment(**{field: value})
