"""Reading images: any raster file as RGB, the resizing of the published runs, tensors.

Images are uint8 (H, W, 3) RGB arrays until `to_tensor`, then float32 (3, H, W) in [0, 1].
"""

import functools
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from proxyclip.errors import InputError, NotFound

MAX_PIXELS = 100_000_000  # what an image may decode to, unless the caller allows more
# Raster formats only: for PostScript, whatever the file is called, Pillow would start Ghostscript, which runs it.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "ICO", "AVIF")

_pillow_limit = threading.Lock()


def read_image(source, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Any image as (H, W, 3) uint8 RGB, upright.

    `source` is a path, a PIL image, or a uint8 or uint16 array of shape (H, W), (H, W, 1), (H, W, 2) grey and alpha,
    (H, W, 3) RGB or (H, W, 4) RGBA. Transparent parts are laid over white, 16 bits are scaled to 8 with rounding, EXIF
    orientation is applied, and of several frames the first is taken. `max_pixels` is compared with the size in the
    file's header, before anything is decoded.

    Raises NotFound for a path that does not exist, InputError for everything else that cannot be read.
    """
    if isinstance(source, np.ndarray):
        return rgb_from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return rgb_from_pillow(source, "the given image", max_pixels)
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"an image must be a path, a PIL image or an array (H, W, 3), not {type(source).__name__}")
    with open_image(source) as image:
        return rgb_from_pillow(image, f"image {source}", max_pixels)


def open_image(path: str | os.PathLike, kind: str = "image", file=None) -> Image.Image:
    """A file as a PIL image that is not decoded yet. kind: what errors call it. file: open already; `path` names it."""
    name = f"{kind} {path}"
    if file is None:
        check_regular_file(path, name)
    try:
        with without_pillow_limit():
            return Image.open(file or path, formats=installed_formats())
    except UnidentifiedImageError:
        raise InputError(f"cannot read {name}: unsupported format or corrupted file") from None
    except Exception as error:  # for a damaged header each format of Pillow has errors of its own
        reason = getattr(error, "strerror", None) or f"truncated or corrupted file ({error})"
        raise InputError(f"cannot read {name}: {reason}") from None


def check_regular_file(path: str | os.PathLike, name: str) -> None:
    """NotFound or InputError unless `path` is a regular file; nothing is opened, since opening a FIFO can block."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{name} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a character that no path can hold
        raise InputError(f"cannot open {name}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{name} is a folder: name one file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{name} is not a regular file but a pipe, device or socket")


@functools.cache
def installed_formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def without_pillow_limit():
    """Disables Pillow's own size limit, which would warn or stop at a different size than ours."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    pixels = height * width
    if pixels == 0:
        raise InputError(f"{name} is empty: it has {height}x{width} pixels (height x width)")
    if not pixels <= max_pixels:  # NaN, too
        size = f"{height}x{width} = {pixels} pixels"
        raise InputError(f"{name} has {size}, more than max_pixels={max_pixels}: make it smaller, or raise max_pixels")


def decode(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Loads the pixels of a PIL image; InputError if it is too large, truncated or corrupted."""
    if image.format == "EPS":
        raise InputError(f"{name} is PostScript, a program rather than an image: convert it to PNG first")
    check_size(image.height, image.width, name, max_pixels)
    try:
        image.load()
    except Exception as error:  # a damaged file: each format of Pillow has errors of its own
        raise InputError(f"cannot read {name}: truncated or corrupted file ({error})") from None


def rgb_from_pillow(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image, decoding it if that has not happened yet."""
    decode(image, name, max_pixels)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data: Pillow has many errors for it
        raise InputError(f"cannot read {name}: corrupted EXIF data ({error})") from None
    if upright.mode.startswith("I"):
        return rgb_from_sixteen_bit(np.asarray(upright), name)
    if upright.mode == "F":
        raise InputError(f"{name} has floating-point pixels of unknown range: save it with 8 or 16 bits per channel")
    try:
        if "transparency" in upright.info or upright.mode in ("LA", "PA", "RGBA", "RGBa"):
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return np.array(upright.convert("RGB"))
    except ValueError:
        raise InputError(f"{name} has colour mode {upright.mode}, which cannot be converted: save it as RGB") from None


def rgb_from_sixteen_bit(grey: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of the grey values that Pillow calls 'I' or 'I;16' (H, W)."""
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest > 65535:
        raise InputError(f"{name} has grey values from {lowest} to {highest}: save it with 8 or 16 bits (0 to 65535)")
    return np.repeat(eight_bit(grey.astype(np.uint16))[..., None], 3, axis=2)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """uint16 0..65535 -> uint8 0..255, rounded; uint8 as it is."""
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def rgb_from_array(array: np.ndarray, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 of an array; a copy, so later changes to the caller's array have no effect."""
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"an image array must be uint8 (0 to 255) or uint16 (0 to 65535), not {array.dtype}: "
            "for values from 0 to 1 pass (255 * array).round().astype('uint8')"
        )
    if array.ndim == 2:
        array = array[..., None]  # (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise InputError(
            f"an image array must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {tuple(array.shape)}: "
            "channels come last, and images are passed one by one or in a list"
        )
    height, width, channels = array.shape
    check_size(height, width, "the given array", max_pixels)
    array = eight_bit(array)
    if channels in (2, 4):  # alpha: Pillow lays it over white
        return rgb_from_pillow(Image.fromarray(np.ascontiguousarray(array)), "the given array", max_pixels)
    return np.repeat(array, 3, axis=2) if channels == 1 else array.copy()


def scaled_size(height: int, width: int, short_side: int, long_side: int = 2048) -> tuple[int, int]:
    """(H, W) after scaling, aspect kept, until the short side is `short_side` or the long side is `long_side`."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize(image: np.ndarray, size: tuple[int, int], antialias: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3) uint8, bilinear, by OpenCV as mmsegmentation, or by Pillow as detectron2."""
    if antialias:
        return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Resize:
    """How a model resizes images: a function that worker processes can be sent.

    short_side: see `scaled_size`; 0 keeps the size. antialias: see `resize`. scales: factors of both sides, one for
    each image that is returned.
    """

    short_side: int = 0
    long_side: int = 2048
    antialias: bool = False
    scales: tuple[float, ...] = (1.0,)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) -> the size (h, w) at which the image is scored."""
        return scaled_size(height, width, self.short_side, self.long_side) if self.short_side else (height, width)

    def __call__(self, image: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """(H, W, 3) uint8 -> (h, w, 3) uint8, or a list of these for several scales."""
        height, width = self.size(*image.shape[:2])
        sizes = [(max(1, round(scale * height)), max(1, round(scale * width))) for scale in self.scales]
        images = [resize(image, size, self.antialias) for size in sizes]
        return images if len(images) > 1 else images[0]


def to_tensor(image: np.ndarray):
    """(H, W, 3) uint8 -> torch (3, H, W) float32 in [0, 1]; divided by NumPy, since torch would wait for busy cores."""
    import torch  # here: `import proxyclip` stays quick

    channels = image.transpose(2, 0, 1)  # (3, H, W)
    return torch.from_numpy(np.divide(channels, 255, out=np.empty(channels.shape, np.float32), dtype=np.float32))
