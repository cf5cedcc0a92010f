"""Reading any image, resizing it byte for byte as published, and one sentence for files that cannot be read."""

import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from statistics_of_images import denormalise, normalise

from proxyclip.errors import InputError, NotFound
from proxyclip.images import Resize, installed_formats, read_image, resize, scaled_size, to_tensor

GOLDEN = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden" / "data") / "proxyclip"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference data at {GOLDEN}")


ROOT = Path(__file__).parents[1]


def picture(height=24, width=37, channels=3, seed=0) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def stored(folder, image: Image.Image, name="picture.png", **options):
    image.save(folder / name, **options)
    return folder / name


# Every kind of image that works


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


# Errors


def refusal(source, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_image(source, **options)
    return str(caught.value)


def test_absent_file():
    with pytest.raises(NotFound, match=r"^image nowhere/cat\.jpg does not exist$"):
        read_image("nowhere/cat.jpg")


def test_folder(tmp_path):
    assert refusal(tmp_path) == f"image {tmp_path} is a folder: name one file in it"


def test_pipes_devices_and_sockets_are_refused_without_opening_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for somebody who writes
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(tmp_path / "socket.png"))
        for path in (tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero"):
            assert refusal(path) == f"image {path} is not a regular file but a pipe, device or socket"
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    assert "is not a regular file" in refusal(tmp_path / "link.png")


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "a\ud800b"], ids=["too long", "NUL", "surrogate"])
def test_paths_that_no_file_can_have(path):
    with pytest.raises((InputError, NotFound), match="image"):
        read_image(path)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(GHOSTSCRIPT RAN) print\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["program.eps", "photo.png", "photo.jpg"])
def test_postscript_is_not_run(tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript would have run"))
    assert refusal(path) == f"cannot read image {path}: unsupported format or corrupted file"
    with Image.open(path) as image:  # the caller may have opened it
        assert "is PostScript" in refusal(image)


def test_only_raster_formats_are_read():
    assert {"JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "ICO"} <= set(installed_formats())
    assert not {"EPS", "WMF", "FITS", "GRIB", "HDF5", "BUFR", "PDF", "MPEG"} & set(installed_formats())


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.tif", "a.webp", "a.ppm", "a.jp2", "a.ico"])
def test_every_common_format_is_read(tmp_path, name):
    assert read_image(stored(tmp_path, Image.fromarray(picture(32, 32)), name)).shape == (32, 32, 3)


@pytest.mark.parametrize("content", [b"", b"This is not an image.", b"\x89PNG\r\n\x1a\n"])
def test_no_image(tmp_path, content):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    assert refusal(path) == f"cannot read image {path}: unsupported format or corrupted file"


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.tif", "picture.gif", "picture.bmp"])
def test_truncated(tmp_path, name):
    path = stored(tmp_path, Image.fromarray(picture(200, 300)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sentence = refusal(path)
    assert sentence.startswith(f"cannot read image {path}: truncated or corrupted file")


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


def fixed_point(image, size):
    """(H, W, C) -> (h, w, C): bilinear with weights of 11 bits, of which bits are dropped between the two passes."""
    height, width = image.shape[:2]
    left, weight = taps(width, size[1])
    near, far = (image.take(np.clip(left + k, 0, width - 1), axis=1).astype(np.int64) for k in (0, 1))
    columns = (near * (2048 - weight)[:, None] + far * weight[:, None]) >> 4  # (H, w, C)
    top, weight = taps(height, size[0])
    near, far = (columns.take(np.clip(top + k, 0, height - 1), axis=0) for k in (0, 1))
    weight = weight[:, None, None]
    return (((near * (2048 - weight) >> 16) + (far * weight >> 16) + 2) >> 2).astype(np.uint8)


def taps(length, new_length):
    """For each new sample the index of its left neighbour (may lie outside) and the right one's weight in 1/2048."""
    scale = 1 / (new_length / length)  # not length / new_length: OpenCV's own rounding
    position = ((np.arange(new_length) + 0.5) * scale - 0.5).astype(np.float32)
    left = np.floor(position)
    return left.astype(np.int64), np.rint((position - left) * np.float32(2048)).astype(np.int64)


def test_resize_has_the_bytes_of_the_published_runs():
    """A build of OpenCV that computes in another way, as one for a new kind of processor may, fails here."""
    for seed, (old, new) in enumerate(pairs(1000)):
        image = picture(*old, seed=seed)
        np.testing.assert_array_equal(resize(image, new), fixed_point(image, new), err_msg=f"{old} -> {new}")


def test_resize_by_hand():
    image = np.array([[[0] * 3, [100] * 3]], np.uint8)
    assert resize(image, (1, 4))[0, :, 1].tolist() == [0, 25, 75, 100]
    assert resize(np.array([[[1] * 3, [2] * 3], [[2] * 3, [2] * 3]], np.uint8), (1, 1)).tolist() == [[[2, 2, 2]]]
    same = resize(image, (1, 2))
    assert same is not image
    np.testing.assert_array_equal(same, image)


def triangles(length, new_length):
    """(n, N): what each old sample counts in each new one, when an area of the old width or more is averaged."""
    scale = length / new_length
    distance = np.arange(length) + 0.5 - (np.arange(new_length)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(distance) / max(scale, 1), 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("new", [(12, 17), (5, 60), (61, 9), (80, 111), (24, 37), (1, 1)])
def test_resize_with_antialiasing_averages_all_pixels(new):
    """As detectron2 does: Pillow's bilinear filter, on 8 bits."""
    image = picture(24, 37)
    resized = resize(image, new, antialias=True)
    expected = np.einsum("hH,HWc,wW->hwc", triangles(24, new[0]), image, triangles(37, new[1]))
    assert np.abs(resized - expected).max() <= 1  # Pillow rounds after each of two passes
    np.testing.assert_array_equal(resized, Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR))
    assert resized.flags.writeable and resized.dtype == np.uint8
    assert (np.abs(resized - resize(image, new).astype(int)).max() > 10) == (new != (24, 37) and min(new) < 24)


def half(height, width):
    return height // 2, width // 2


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_in_another_process(antialias):
    image = picture(24, 38)
    smaller = pickle.loads(pickle.dumps(Resize(12, antialias=antialias)))(image)
    np.testing.assert_array_equal(smaller, resize(image, (12, 19), antialias=antialias))
    assert Resize(12, long_side=16).size(24, 38) == (10, 16) and Resize().size(24, 38) == (24, 38)


THIN = """
import resource, sys
import numpy as np
from proxyclip.images import read_image, resize, scaled_size
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = read_image(sys.argv[1])
for shape in ((1, 60_000), (60_000, 1), (1, 30_000_000), (30_000_000, 1)):
    size = scaled_size(*shape, 336)
    assert max(size) == 2048
    resize(np.ascontiguousarray(np.broadcast_to(image[:1, :1], (*shape, 3))), size)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_thin_images_take_little_memory(tmp_path):
    path = stored(tmp_path, Image.fromarray(picture(1, 60_000)))
    done = subprocess.run([sys.executable, "-c", THIN, str(path)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 200  # MiB, of which 86 are the largest image itself


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


def test_scaled_sides_are_rounded():
    assert scaled_size(37, 61, 336) == (336, 554) and scaled_size(95, 143, 41) == (41, 62)
