"""Videos: their frames as images, and overlays of the frames as a video. Needs PyAV."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.folder.inputs import ending
from proxyclip.folder.storage import is_address, opened
from proxyclip.images import check_regular_file, check_size
from proxyclip.pictures.legend import with_legend
from proxyclip.segmentation import Segmentation
from proxyclip.vocabulary import split_names

# The reader is chosen by the ending, not by the content: a playlist that is called a video would be followed.
READERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "mov"),
    **dict.fromkeys((".mkv", ".webm"), "matroska"),
    **dict.fromkeys((".mpg", ".mpeg"), "mpeg"),
    **dict.fromkeys((".ts", ".mts"), "mpegts"),
    ".avi": "avi",
    ".wmv": "asf",
}
QUALITY = {"crf": "20", "preset": "veryfast"}  # of H.264
JPEG_QUALITY = 95  # of frames, before they are a video
DIGITS = 6  # of a frame's number


class VideoFacts(NamedTuple):
    """frames: their number, an estimate where the file does not say. rate: frames a second."""

    frames: int
    rate: Fraction


def require_av():
    """The module; InputError without it."""
    try:
        import av
    except ImportError:
        raise InputError(
            "videos need PyAV: pip install 'proxyclip[video]', or in a checkout: pip install .[video]"
        ) from None
    return av


def examine(path: str) -> VideoFacts:
    """InputError or NotFound if it is not a video that can be read."""
    with open_video(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = float(container.duration or 0) / 1e6
        return VideoFacts(max(1, stream.frames or round(seconds * rate)), Fraction(rate))


def frames_of(path: str, step: int, max_pixels: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number from 0 and (H, W, 3) uint8 RGB of every `step`-th frame, upright; InputError for a damaged video."""
    with open_video(path) as (container, stream):
        check_size(stream.height, stream.width, f"video {path}", max_pixels)
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number % step == 0:
                image = frame.to_ndarray(format="rgb24")  # (H, W, 3)
                yield number, np.ascontiguousarray(np.rot90(image, frame.rotation // 90))


@contextlib.contextmanager
def open_video(path: str):
    """PyAV's container and video stream; its errors in the block become InputError."""
    av = require_av()
    with contextlib.ExitStack() as stack:
        if is_address(path):
            files, place = opened(path)
            file = stack.enter_context(files.open(path if place is None else place, "rb"))
        else:
            check_regular_file(path, f"video {path}")
            file = stack.enter_context(open(path, "rb"))
        try:
            container = stack.enter_context(av.open(file, format=READERS[ending(path)], metadata_errors="replace"))
            if not container.streams.video:
                raise InputError(f"{path} has no video stream")
            yield container, container.streams.video[0]
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"cannot read video {path}: {error.strerror or 'damaged'}") from None


def frame_name(name: str, number: int) -> str:
    """The output name of a frame of the video with this output name."""
    return f"{name}/{number:0{DIGITS}d}"


def frame_picture(result: Segmentation) -> bytes:
    """A JPEG of the overlay with a legend of all classes, of the same size for all frames of a video."""
    entries = [
        (split_names(name)[0], None, colour) for name, colour in zip(result.classes, result.colours(), strict=True)
    ]
    sheet = with_legend(result.overlay(legend=False), entries, result.text_size())
    width, height = (side + side % 2 for side in sheet.size)  # H.264 stores colours of 2x2 pixels
    even = Image.new("RGB", (width, height), "white")
    even.paste(sheet)
    file = BytesIO()
    even.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def encode_video(frames: Iterable[bytes], rate: Fraction) -> Iterator[bytes]:
    """The contents of an .mp4 file (H.264) with these frames, JPEG files of one size, in blocks."""
    av = require_av()
    folder = tempfile.mkdtemp()
    try:
        path = os.path.join(folder, "video.mp4")
        with av.open(path, "w") as container:
            stream = None
            for data in frames:
                image = np.asarray(Image.open(BytesIO(data), formats=["JPEG"]))  # (H, W, 3)
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate.limit_denominator(100_000), options=QUALITY)
                    stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                yield block
    finally:
        shutil.rmtree(folder)
