"""Resizing by tensors has the bytes of OpenCV and Pillow, and leaves the host alone."""

import platform

import numpy as np
import pytest
import torch
from host_traffic import DEVICE, host_traffic

from proxyclip import device_resize
from proxyclip.device_resize import matches_host, resize_on, vertical_first
from proxyclip.image_io import resize

here = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="OpenCV computes in another way on other processors"
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sizes(count=60):
    """Pairs of sizes: any, equal, halved, doubled, a quarter, one axis kept, one pixel wide, tall."""
    draw = np.random.default_rng(0)
    for number in range(count):
        (height, width), (new_height, new_width) = draw.integers(1, (8, 60, 200)[number % 3], (2, 2)).tolist()
        old, new = (height, width), (new_height, new_width)
        yield (
            (old, new), (old, old), ((2 * new_height, 2 * new_width), new), (old, (2 * height, 2 * width)),
            ((4 * new_height, 4 * new_width), new), (old, (new_height, width)), (old, (height, new_width)),
            ((height, 1), new), (old, (1, new_width)), ((9 * height, width), (height, new_width)),
        )[number % 10]  # fmt: skip
    yield (1, 8013), (1, 2048)  # where the rounding of the scale shows
    yield (375, 500), (336, 448)
    yield (683, 1024), (448, 672)
    yield (610, 6), (31, 5)  # more than a hundred times as tall as wide


@here
@pytest.mark.parametrize("antialias", [False, True])
def test_the_bytes_of_the_host(antialias):
    for seed, (old, new) in enumerate(sizes()):
        image = noise(*old, seed)
        image = image if seed % 4 else (image > 127) * np.uint8(255)  # extremes overflow first
        resized = resize_on(torch.from_numpy(image), new, antialias)
        assert resized.dtype == torch.uint8 and resized.shape == (*new, 3)
        np.testing.assert_array_equal(resized, resize(image, new, antialias), err_msg=f"{old} -> {new}")


@here
@pytest.mark.parametrize("antialias", [False, True])
def test_views_and_the_given_image(antialias):
    image = noise(40, 60)
    view = torch.from_numpy(image)[::2, 5:, [2, 1, 0]]
    expected = resize(np.ascontiguousarray(view.numpy()), (31, 17), antialias)
    np.testing.assert_array_equal(resize_on(view, (31, 17), antialias), expected)
    given = torch.from_numpy(image)
    resize_on(given, (40, 60), antialias).zero_()
    np.testing.assert_array_equal(given, noise(40, 60))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("old", [(48, 64), (400, 30)])
def test_a_repeated_size_neither_copies_nor_waits(old, antialias):
    image = torch.zeros(*old, 3, dtype=torch.uint8, device=DEVICE)
    with host_traffic() as found:
        resize_on(image, (33, 41), antialias)
    assert len(found) == 4  # places and weights of both axes
    with host_traffic() as found:
        resized = resize_on(image, (33, 41), antialias)
    assert found == []
    assert resized.device == DEVICE and resized.dtype == torch.uint8 and resized.shape == (33, 41, 3)


def test_the_order_of_the_axes():
    """Pillow rounds to bytes between them, so it shows."""
    tall, fair = (300, 40, 60, 30), (300, 400, 60, 80)
    assert [vertical_first(*tall, release) for release in ((12, 1), (12, 3), (13, 0), (14, 2))] == [0, 0, 1, 1]
    assert not any(vertical_first(*fair, release) for release in ((12, 1), (12, 3), (13, 0)))
    assert vertical_first(28, 12, 7, 3, (13, 0)) and not vertical_first(28, 12, 8, 2, (13, 0))
    assert not vertical_first(28, 12, 29, 2, (13, 0)) and not vertical_first(28, 12, 29, 20, (13, 0))
    assert [vertical_first(401, 4, 400, 9, release) for release in ((12, 1), (12, 2), (12, 3))] == [0, 1, 1]
    assert not vertical_first(401, 4, 402, 9, (12, 3)) and not vertical_first(400, 4, 9, 9, (12, 3))


@pytest.fixture
def unchecked():
    matches_host.cache_clear()
    yield
    matches_host.cache_clear()


def test_other_processors_are_not_trusted(unchecked, monkeypatch):
    monkeypatch.setattr(device_resize.platform, "machine", lambda: "aarch64")
    assert not matches_host()


@here
@pytest.mark.parametrize("antialias", [False, True])
def test_another_arithmetic_of_the_host_is_noticed(unchecked, monkeypatch, antialias):
    def other(image, size, smooth):
        return resize(image, size, smooth) ^ np.uint8(smooth == antialias and size[0] == 31)

    monkeypatch.setattr(device_resize.image_io, "resize", other)
    assert not matches_host()


@here
def test_this_machine_matches(unchecked):
    assert matches_host()


@here
def test_another_order_of_the_axes_is_noticed(unchecked, monkeypatch):
    """As when a later release goes back to the order that Pillow had before 13.0."""
    monkeypatch.setattr(device_resize, "vertical_first", lambda *sizes: False)
    assert matches_host() == (device_resize.PILLOW < (13, 0))
