"""What is done to every image: model, class names, formats; and which outputs of an image are missing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np

from proxyclip.errors import InputError
from proxyclip.export import find_format
from proxyclip.folder.inputs import Input, Inputs
from proxyclip.folder.storage import Folder, Store, open_storage
from proxyclip.images import MAX_PIXELS
from proxyclip.vocabulary import Vocabulary

PARTS = ".parts"  # of files that hold all images, and of videos
RECORD = "segment.json"  # what the outputs of a folder were made with
VIDEOS = "videos"


class PendingInput(NamedTuple):
    """An item that is not finished. missing: the formats that it still needs. video: whether an overlay video is."""

    item: Input
    missing: tuple[str, ...]
    video: bool = False


@dataclass(frozen=True, eq=False)
class PendingInputs(Sequence[PendingInput]):
    """Inputs that are not finished; slices hold only what they need, and can be pickled.

    formats: of images; frame_formats: of the frames of videos. missing: (N) uint32, the bit k is set if the k-th format
    is missing; the bit after the last of `frame_formats` if an overlay video is.
    """

    items: Inputs
    formats: tuple[str, ...]
    frame_formats: tuple[str, ...]
    missing: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, place: int) -> PendingInput: ...
    @overload
    def __getitem__(self, place: slice) -> "PendingInputs": ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return PendingInputs(self.items[place], self.formats, self.frame_formats, self.missing[place].copy())
        return self.pending_input(self.items[place], int(self.missing[place]))

    def __iter__(self) -> Iterator[PendingInput]:
        return map(self.pending_input, self.items, map(int, self.missing))

    def at(self, places: np.ndarray) -> "PendingInputs":
        return PendingInputs(self.items.at(places), self.formats, self.frame_formats, self.missing[places])

    def pending_input(self, item: Input, missing: int) -> PendingInput:
        formats = self.frame_formats if item.is_video else self.formats
        kinds = tuple(kind for bit, kind in enumerate(formats) if missing >> bit & 1)
        return PendingInput(item, kinds, item.is_video and bool(missing >> len(formats)))

    def parted(self) -> tuple["PendingInputs", "PendingInputs"]:
        """The images and the videos."""
        videos = np.zeros(len(self), bool)
        videos[self.items.videos] = True
        if not videos.any():
            return self, self[:0]
        return self.at(np.flatnonzero(~videos)), self.at(np.flatnonzero(videos))

    def kinds(self) -> set[str]:
        """The formats that some of them need."""
        found = set()
        for part, formats in zip(self.parted(), (self.formats, self.frame_formats), strict=True):
            bits = int(np.bitwise_or.reduce(part.missing))
            found |= {kind for bit, kind in enumerate(formats) if bits >> bit & 1}
        return found


@dataclass(frozen=True)
class Job:
    """What is done to every image; can be pickled, for other processes.

    model: `on(device).plan().build()` loads it; see `ModelChoice`. out: a folder or an address. formats: names of
    `proxyclip.export`. frame_formats: of the frames of videos. frame_step: only every so many frames of a video are
    used. calling: arguments of `Segmentor.segment_each` that its results depend on.
    """

    model: Any
    vocabulary: Vocabulary
    out: str
    formats: tuple[str, ...]
    frame_formats: tuple[str, ...] = ()
    frame_step: int = 1
    calling: dict = field(default_factory=dict)
    batch_windows: int | None = None
    max_pixels: int = MAX_PIXELS

    @cached_property
    def storage(self) -> Folder | Store:
        return open_storage(self.out)

    @cached_property
    def encoders(self) -> dict:
        """Name -> format, of images and frames."""
        names = dict.fromkeys((*self.formats, *self.frame_formats))
        return {name: find_format(name, self.vocabulary.names) for name in names}

    def formats_of(self, items: Inputs) -> list[str]:
        """All formats that some of the items have."""
        videos = len(items.videos)
        return list(dict.fromkeys((*self.formats * (videos < len(items)), *self.frame_formats * (videos > 0))))

    def folder(self, kind: str) -> str:
        """That of the files of images in a format, relative to `out`."""
        encoder = self.encoders[kind]
        return f"{PARTS + '/' if encoder.GATHERED else ''}{encoder.FOLDER}"

    def path(self, kind: str, name: str) -> str:
        """The file of an image or frame in a format, relative to `out`."""
        return f"{self.folder(kind)}/{name}{self.encoders[kind].SUFFIX}"

    def frame_path(self, name: str) -> str:
        """The overlay of a frame, until it is part of a video."""
        return f"{PARTS}/{VIDEOS}/{name}.jpg"

    def video_path(self, name: str) -> str:
        return f"{VIDEOS}/{name}.mp4"

    def marker_path(self, name: str) -> str:
        """Lists the formats in which all frames of a video are finished."""
        return f"{PARTS}/{VIDEOS}/{name}.json"

    def pending_inputs(self, items: Inputs) -> PendingInputs:
        """The items that are not finished; the outputs of one format are listed at a time."""
        missing = np.full(len(items), (1 << len(self.formats)) - 1, np.uint32)
        for bit, kind in enumerate(self.formats):
            there, suffix = self.storage.names(self.folder(kind)), self.encoders[kind].SUFFIX
            if there:
                files = (items.name(path) + suffix for path in items.paths)
                finished = np.fromiter((file in there for file in files), bool, len(items))
                missing[finished] &= ~np.uint32(1 << bit)
        if videos := items.videos:
            there = self.storage.names(VIDEOS), self.storage.names(f"{PARTS}/{VIDEOS}")
            missing[videos] = [self.missing_of_video(items[place].name, *there) for place in videos]
        left = np.flatnonzero(missing)
        pending = PendingInputs(items, self.formats, self.frame_formats, missing)
        return pending if len(left) == len(items) else pending.at(left)

    def missing_of_video(self, name: str, videos: set[str], parts: set[str]) -> int:
        """In bits, see `PendingInputs`. videos, parts: the files in the folders of videos and of their parts."""
        finished = json.loads(self.storage.read(self.marker_path(name))) if f"{name}.json" in parts else []
        bits = sum(1 << bit for bit, kind in enumerate(self.frame_formats) if kind not in finished)
        return bits | (f"{name}.mp4" not in videos) << len(self.frame_formats)

    def left_of(self, pending: PendingInputs) -> PendingInputs:
        """Those of the items that are not finished by now; the frames of videos are looked up when they are read."""
        missing = pending.missing.copy()
        for place, (item, kinds, _) in enumerate(pending):
            if not item.is_video:
                there = {kind for kind in kinds if self.storage.has(self.path(kind, item.name))}
                missing[place] &= ~np.uint32(sum(1 << self.formats.index(kind) for kind in there))
        return replace(pending, missing=missing).at(np.flatnonzero(missing))

    def frames_there(self, item: Input) -> set[str]:
        """All files of a video's frames."""
        folders = {self.path(kind, item.name).rpartition(self.encoders[kind].SUFFIX)[0] for kind in self.frame_formats}
        folders.add(self.frame_path(item.name).removesuffix(".jpg"))
        return {f"{folder}/{name}" for folder in folders for name in self.storage.names(folder)}

    def check_record(self) -> None:
        """Writes down what the outputs are made with; InputError if there are outputs made with something else."""
        record = {
            "model": self.model.described(),
            "classes": [*self.vocabulary.classes],
            "names": [*self.vocabulary.names],
            "frame_step": self.frame_step,
            **self.calling,
        }
        if self.storage.has(RECORD):
            try:
                earlier = json.loads(self.storage.read(RECORD))
            except ValueError:
                raise InputError(f"{self.out}/{RECORD} is corrupted: choose another --out, or delete it") from None
            if differing := [name for name, value in record.items() if earlier.get(name) != value]:
                raise InputError(
                    f"{self.out} holds results of other settings ({', '.join(differing)}): choose another --out, or "
                    "delete it"
                )
            return
        self.storage.write(RECORD, json.dumps(record, indent=1).encode())
