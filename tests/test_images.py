"""Reading any picture, resizing it byte for byte as published, and what unreadable ones are told."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from proxyclip.errors import InputError, NotFound
from proxyclip.image_io import denormalise, normalise, read_image, resize, scaled_size, to_tensor

GOLDEN = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden" / "data") / "proxyclip"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference data at {GOLDEN}")


def picture(height=24, width=37, channels=3, seed=0) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def stored(folder, image: Image.Image, name="picture.png", **options):
    image.save(folder / name, **options)
    return folder / name


# Every kind of picture that works


def test_rgb_from_path_pillow_and_array(tmp_path):
    image = picture()
    path = stored(tmp_path, Image.fromarray(image))
    for source in (path, str(path), Image.fromarray(image), image):
        read = read_image(source)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, image)


def test_an_array_is_copied():
    image = picture()
    read = read_image(image)
    image[:] = 0
    assert read.any()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(tmp_path, mode):
    grey = Image.fromarray(picture(channels=0)).convert(mode)
    read = read_image(stored(tmp_path, grey))
    np.testing.assert_array_equal(read, np.asarray(grey.convert("L"))[..., None].repeat(3, axis=2))


def test_transparent_parts_lie_over_white(tmp_path):
    colour = (200, 100, 0)
    expected = {0: (255, 255, 255), 255: colour, 51: (244, 224, 204)}
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate(expected):
        image.putpixel((x, 0), (*colour, alpha))
    for source in (stored(tmp_path, image), image, np.asarray(image)):
        assert [tuple(pixel) for pixel in read_image(source)[0].tolist()] == list(expected.values())


def test_grey_and_alpha(tmp_path):
    image = Image.new("LA", (2, 1), (80, 255))
    image.putpixel((1, 0), (80, 0))
    for source in (stored(tmp_path, image), image, np.asarray(image)):
        assert read_image(source)[0].tolist() == [[80, 80, 80], [255, 255, 255]]


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.putpixel((1, 0), 0)
    assert read_image(stored(tmp_path, image))[0].tolist() == [[10, 20, 30], [9, 9, 9]]
    assert read_image(stored(tmp_path, image, transparency=0))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    read = read_image(stored(tmp_path, cmyk, "picture.jpg"))
    assert read.shape == (8, 8, 3)
    assert read[..., 0].min() > 220
    assert read[..., 1:].max() < 60


@pytest.mark.parametrize("name", ["picture.png", "picture.tif"])
def test_sixteen_bits_are_scaled_and_rounded(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 25700, 65535]], np.uint16)  # 128/257 rounds down, 129/257 up
    for source in (stored(tmp_path, Image.fromarray(values), name), values, values.repeat(3).reshape(1, 6, 3)):
        assert read_image(source)[0, :, 1].tolist() == [0, 0, 1, 1, 100, 255]


def test_thirty_two_bit_greys_within_sixteen(tmp_path):
    values = np.array([[0, 25700, 65535]], np.int32)
    assert read_image(Image.fromarray(values))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    "orientation, turn",
    [(3, lambda image: image[::-1, ::-1]), (6, lambda image: np.rot90(image, -1)), (8, lambda image: np.rot90(image))],
)
def test_exif_rotation(tmp_path, orientation, turn):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = stored(tmp_path, Image.fromarray(image), exif=exif)
    np.testing.assert_array_equal(read_image(path), turn(image))


def test_first_of_several_frames(tmp_path):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    path = stored(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_one_pixel_wide_or_high(tmp_path, shape):
    image = picture(*shape)
    np.testing.assert_array_equal(read_image(stored(tmp_path, Image.fromarray(image))), image)
    assert resize(image, scaled_size(*shape, 56)).shape[:2] == scaled_size(*shape, 56)


@pytest.mark.parametrize("channels", [0, 1])
def test_grey_arrays(channels):
    image = picture(channels=channels)
    np.testing.assert_array_equal(read_image(image), image.reshape(24, 37, 1).repeat(3, axis=2))


# What unreadable ones are told


def refusal(source, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_image(source, **options)
    return str(caught.value)


def test_absent_file():
    with pytest.raises(NotFound, match=r"^image nowhere/cat\.jpg does not exist$"):
        read_image("nowhere/cat.jpg")


def test_folder(tmp_path):
    assert refusal(tmp_path) == f"image {tmp_path} is a folder: name one file in it"


@pytest.mark.parametrize("content", [b"", b"This is no picture.", b"\x89PNG\r\n\x1a\n"])
def test_no_image(tmp_path, content):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    assert refusal(path) == f"image {path} is no picture that Pillow can read, or it is damaged"


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.tif", "picture.gif", "picture.bmp"])
def test_truncated(tmp_path, name):
    path = stored(tmp_path, Image.fromarray(picture(200, 300)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sentence = refusal(path)
    assert sentence.startswith(f"image {path} is")
    assert "damaged" in sentence


def header_of_png(height, width) -> bytes:
    """A PNG of which only the size is there."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + header + empty


@pytest.mark.filterwarnings("error")
def test_too_many_pixels_are_noticed_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(header_of_png(100_000, 50_000))  # Pillow itself would stop with an error of its own here
    expected = (
        "has 100000x50000 = 5000000000 pixels, more than max_pixels=100000000: make it smaller, or raise max_pixels"
    )
    assert refusal(path) == f"image {path} {expected}"


@pytest.mark.filterwarnings("error")
def test_the_limit_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = stored(tmp_path, Image.fromarray(picture(20, 30)))
    assert read_image(path, max_pixels=600).shape == (20, 30, 3)
    for source in (path, picture(20, 30), Image.fromarray(picture(20, 30))):
        assert "has 20x30 = 600 pixels, more than max_pixels=599" in refusal(source, max_pixels=599)
    assert Image.MAX_IMAGE_PIXELS == 10  # the caller's limit for other uses of Pillow is as it was


@pytest.mark.parametrize("source", [np.zeros((0, 5, 3), np.uint8), Image.new("RGB", (5, 0))])
def test_no_pixels(source):
    assert "is empty: it has 0x5 pixels (height x width)" in refusal(source)


@pytest.mark.parametrize("kind", ["float32", "int64", "bool"])
def test_arrays_of_other_types(kind):
    assert f"must be uint8 (0 to 255) or uint16 (0 to 65535), not {kind}" in refusal(np.ones((4, 5, 3), kind))


@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 20, 30, 3), (7,), (20, 30, 5), (20, 30, 0)])
def test_arrays_of_other_shapes(shape):
    sentence = refusal(np.zeros(shape, np.uint8))
    assert "must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)" in sentence
    assert str(shape) in sentence


def test_other_types():
    assert refusal(7) == "an image must be a path, a PIL image or an array (H, W, 3), not int"
    assert refusal(torch.zeros(3, 4, 5)).endswith("not Tensor")


def test_greys_beyond_sixteen_bits():
    assert "has grey values from 0 to 70000" in refusal(Image.fromarray(np.array([[0, 70000]], np.int32)))
    assert "has grey values from -1 to 7" in refusal(Image.fromarray(np.array([[-1, 7]], np.int32)))
    assert "floating-point pixels" in refusal(Image.fromarray(np.zeros((4, 5), np.float32)))


# Resizing


def pairs(count, seed=0):
    """(H, W), (h, w) of all kinds: any, slim, exact halves of both sides or of one."""
    draw = np.random.default_rng(seed)
    for index in range(count):
        height, width, new_height, new_width = (int(n) for n in draw.integers(1, (6, 60, 160)[index % 3] + 1, 4))
        kind = index % 7
        if kind == 1:
            height = 1
        elif kind == 2:
            width = 1
        elif kind == 3:
            height, width = 2 * new_height, 2 * new_width
        elif kind == 4:
            height, width = 2 * new_height, new_width
        yield (height, width), (new_height, new_width)
    yield from (((1, length), (1, 2048)) for length in (6127, 7493, 8013))  # where the rounding of the scale shows


def test_resize_equals_opencv_byte_for_byte():
    cv2 = pytest.importorskip("cv2")
    for seed, (old, new) in enumerate(pairs(1000)):
        image = picture(*old, channels=(1, 3, 4)[seed % 3], seed=seed)
        theirs = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR).reshape(*new, -1)
        np.testing.assert_array_equal(resize(image, new), theirs, err_msg=f"{old} -> {new}")


def test_resize_by_hand():
    image = np.array([[[0], [100]]], np.uint8)
    assert resize(image, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
    assert resize(np.array([[[1], [2]], [[2], [2]]], np.uint8), (1, 1)).item() == 2  # (7 + 2) >> 2
    same = resize(image, (1, 2))
    assert same is not image
    np.testing.assert_array_equal(same, image)


def test_scaled_size():
    assert scaled_size(375, 500, 336) == (336, 448)
    assert scaled_size(500, 375, 336) == (448, 336)
    assert scaled_size(10, 1000, 336) == (20, 2048)  # the long side limits
    assert scaled_size(1, 10_000, 336) == (1, 2048)
    assert scaled_size(10_000, 1, 336) == (2048, 1)


@needs_golden
def test_published_preprocessing():
    from safetensors.numpy import load_file

    tensors = load_file(GOLDEN / "preprocess.safetensors")
    description = json.loads((GOLDEN / "preprocess.json").read_text())
    mean, std = ([value / 255 for value in description[name]] for name in ("mean", "std"))
    assert description["cases"]
    for case in description["cases"]:
        image = tensors[f"{case['name']}.image_bgr"][..., ::-1]
        long_side, short_side = case["scale_long_short"]
        size = scaled_size(*image.shape[:2], short_side, long_side)
        assert size == tuple(case["resized_hw"])
        resized = resize(image, size)
        np.testing.assert_array_equal(resized[..., ::-1], tensors[f"{case['name']}.resized_bgr"])
        normalised = normalise(to_tensor(resized)[None], mean, std).numpy()
        whole, corner = (tensors.get(f"{case['name']}.normalised{part}") for part in ("", "_corner"))
        expected = whole if corner is None else corner
        height, width = expected.shape[-2:]
        np.testing.assert_allclose(normalised[..., :height, :width], expected, atol=1e-5)


@needs_golden
def test_published_renormalisation():
    from safetensors.torch import load_file

    tensors = load_file(GOLDEN / "renormalise.safetensors")
    names = json.loads((GOLDEN / "renormalise.json").read_text())
    images = denormalise(tensors["image_clip"], names["clip_mean"], names["clip_std"])
    torch.testing.assert_close(images, tensors["unnormalised"], atol=1e-5, rtol=0)
    images = normalise(images, names["imagenet_mean"], names["imagenet_std"])
    torch.testing.assert_close(images, tensors["image_imagenet"], atol=1e-5, rtol=0)


def test_to_tensor():
    image = picture()
    tensor = to_tensor(image)
    assert tensor.shape == (3, 24, 37)
    assert tensor.dtype == torch.float32
    assert tensor[1, 5, 7] == torch.tensor(image[5, 7, 1] / 255, dtype=torch.float32)
