"""Videos: frames are images, and come back as a video with overlay and legend."""

import builtins
import json
import struct

import numpy as np
import pytest
from PIL import Image
from small_folder import files_in, segment_here

from datasets import scenes
from proxyclip.errors import InputError
from proxyclip.folder import video
from proxyclip.folder.stream import Writers

av = pytest.importorskip("av")
HEIGHT, WIDTH, FRAMES = 48, 64, 7


def write_video(path, frames=FRAMES, rate=5, codec="libx264"):
    """A bright bar that moves one column every frame, over a scene."""
    image, _ = scenes.draw(3, 64)  # (64, 64, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(frames):
            picture = np.ascontiguousarray(image[:HEIGHT])
            picture[:, 8 * number : 8 * number + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def frames_in(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("clip.mp4")
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".mov"])
def test_frames_are_read_in_order(tmp_path, ending):
    write_video(tmp_path / f"a{ending}", codec="mpeg4" if ending == ".avi" else "libx264")
    found = list(video.frames_of(str(tmp_path / f"a{ending}"), 1, 10**6))
    assert [number for number, _ in found] == list(range(FRAMES))
    for number, image in found:
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        assert image[:, 8 * number + 2 : 8 * number + 6].min() > 200
    assert [number for number, _ in video.frames_of(str(tmp_path / f"a{ending}"), 3, 10**6)] == [0, 3, 6]
    facts = video.examine(str(tmp_path / f"a{ending}"))
    assert abs(facts.frames - FRAMES) <= 1 and facts.rate == 5


def test_a_rotated_video_is_upright(clip):
    """Telephones store a quarter turn in the header: the matrix of the track, in fixed-point numbers."""
    data, upright = bytearray(clip.read_bytes()), frames_in(clip)[0]
    place = data.index(b"tkhd") + 4 + 40  # version, flags, times, track, duration, layer, volume: 40 bytes
    assert struct.unpack(">9i", data[place : place + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, HEIGHT << 16, 0, 1 << 30)  # clockwise
    clip.write_bytes(data)
    _, image = next(video.frames_of(str(clip), 1, 10**6))
    np.testing.assert_array_equal(image, np.rot90(upright, -1))


def test_the_overlay_is_a_video_with_a_legend(clip, tmp_path, capsys):
    segment_here("clip.mp4", "--out", "out", "--frame-step", "2")
    assert files_in(tmp_path / "out") == {"videos/clip.mp4", "segment.json", ".parts/videos/clip.json"}
    written = frames_in("out/videos/clip.mp4")
    assert len(written) == 4
    assert video.examine("out/videos/clip.mp4").rate == 2.5
    height, width, _ = written[0].shape
    assert width >= WIDTH and height > HEIGHT and height % 2 == width % 2 == 0
    assert "1 of 1 inputs are finished" in capsys.readouterr().out
    before = (tmp_path / "out/videos/clip.mp4").stat().st_mtime_ns
    segment_here("clip.mp4", "--out", "out", "--frame-step", "2")
    assert (tmp_path / "out/videos/clip.mp4").stat().st_mtime_ns == before


def test_frames_are_exported_on_request(clip, tmp_path):
    segment_here("clip.mp4", "--out", "out", "--format", "labels", "--format", "coco", "--frame-step", "3")
    names = [f"clip/{number:06d}" for number in (0, 3, 6)]
    assert {f"labels/{name}.png" for name in names} < files_in(tmp_path / "out")
    images = json.loads((tmp_path / "out/coco.json").read_text())["images"]
    assert len({image["id"] for image in images}) == 3
    assert Image.open("out/labels/clip/000003.png").size == (WIDTH, HEIGHT)


def test_an_interrupted_video_goes_on(clip, tmp_path, monkeypatch):
    """Frames that are finished are not segmented again; the video is the same."""
    from proxyclip.folder import stream

    segment_here("clip.mp4", "--out", "whole")
    monkeypatch.setattr(stream, "encode_video", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        segment_here("clip.mp4", "--out", "out")
    assert len(files_in(tmp_path / "out/.parts")) == FRAMES
    (tmp_path / "out/.parts/videos/clip/000002.jpg").unlink()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    seen, save = [], Writers.save
    monkeypatch.setattr(Writers, "save", lambda self, *pair: seen.append(1) or save(self, *pair))
    segment_here("clip.mp4", "--out", "out")
    assert len(seen) == 1
    frames = (np.array(frames_in(f"{out}/videos/clip.mp4"), int) for out in ("out", "whole"))
    # The encoder's threads do not always agree to the last bit; another frame in one's place differs by 6 or more.
    assert abs(np.subtract(*frames)).mean(axis=(1, 2, 3)).max() < 1


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "cannot read video"),
        (b"<html></html>" * 100, "cannot read video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot read video"),  # a playlist is not followed
        ("half", "cannot read video"),
    ],
)
def test_damaged_videos_are_failures(clip, tmp_path, content, words, capsys):
    half = clip.read_bytes()[: clip.stat().st_size // 2]
    (tmp_path / "bad.mp4").write_bytes(half if content == "half" else content)
    with pytest.raises(SystemExit) as exit:
        segment_here("bad.mp4", "clip.mp4", "--out", "out", "--frame-step", "6")
    assert exit.value.code == 1
    assert words in capsys.readouterr().err
    assert {name for name in files_in(tmp_path / "out") if name.startswith("videos/")} == {"videos/clip.mp4"}


def test_too_many_pixels(clip):
    with pytest.raises(InputError, match="more than max_pixels=1000"):
        list(video.frames_of(str(clip), 1, 1000))


def test_without_pyav_a_sentence_says_what_to_install(clip, monkeypatch, capsys):
    found = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name == "av" else found(name, *rest),
    )
    with pytest.raises(SystemExit) as exit:
        segment_here("clip.mp4", "--out", "out")
    assert exit.value.code == 2 and "pip install .[video]" in capsys.readouterr().err
