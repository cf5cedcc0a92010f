"""Files that pretend to be images."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of that size in its header, whatever the data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


# name -> content, and what the message says
HOSTILE = {
    "page.png": (b"<!DOCTYPE html><script>alert(1)</script>", "unsupported format"),
    "program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "unsupported format"),
    "vast.png": (png(30_000, 30_000, zlib.compress(bytes(3_000_000), 9)), "900000000 pixels, more than max_pixels"),
    "nothing.png": (b"", "is an empty file"),
    "cut.jpg": (jpeg()[:4000], "truncated or corrupted"),
    "../../etc/passwd": (b"root:x:0:0", "unsupported format"),
}
