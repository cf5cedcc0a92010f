"""What is done to every image: model, class names, formats; and which outputs of an image are missing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from proxyclip.errors import InputError
from proxyclip.export import find_format
from proxyclip.folder.inputs import Item
from proxyclip.folder.storage import Folder, Store, open_storage
from proxyclip.image_io import MAX_PIXELS
from proxyclip.vocabulary import Vocabulary

PARTS = ".parts"  # of files that hold all images, and of videos
RECORD = "segment.json"  # what the outputs of a folder were made with
VIDEOS = "videos"


class Todo(NamedTuple):
    """An item that is not finished. missing: the formats that it still needs. video: whether an overlay video is."""

    item: Item
    missing: tuple[str, ...]
    video: bool = False


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

    def formats_of(self, items: Iterable[Item]) -> list[str]:
        """All formats that some of the items have."""
        kinds = {item.is_video for item in items}
        return list(dict.fromkeys((*self.formats * (False in kinds), *self.frame_formats * (True in kinds))))

    def path(self, kind: str, name: str) -> str:
        """The file of an image or frame in a format, relative to `out`."""
        encoder = self.encoders[kind]
        return f"{PARTS + '/' if encoder.GATHERED else ''}{encoder.FOLDER}/{name}{encoder.SUFFIX}"

    def frame_path(self, name: str) -> str:
        """The overlay of a frame, until it is part of a video."""
        return f"{PARTS}/{VIDEOS}/{name}.jpg"

    def video_path(self, item: Item) -> str:
        return f"{VIDEOS}/{item.name}.mp4"

    def marker_path(self, item: Item) -> str:
        """Lists the formats in which all frames of a video are finished."""
        return f"{PARTS}/{VIDEOS}/{item.name}.json"

    def todo(self, items: Iterable[Item]) -> list[Todo]:
        """The items that are not finished."""
        there = self.storage.names()
        todos = (
            self.todo_of_video(item, there) if item.is_video else self.todo_of_image(item, there) for item in items
        )
        return [todo for todo in todos if todo.missing or todo.video]

    def todo_of_image(self, item: Item, there: set[str]) -> Todo:
        return Todo(item, tuple(kind for kind in self.formats if self.path(kind, item.name) not in there))

    def todo_of_video(self, item: Item, there: set[str]) -> Todo:
        marker = self.marker_path(item)
        finished = json.loads(self.storage.read(marker)) if marker in there else []
        missing = tuple(kind for kind in self.frame_formats if kind not in finished)
        return Todo(item, missing, self.video_path(item) not in there)

    def left_of(self, todo: Todo) -> Todo | None:
        """What is missing by now of an item that was not finished; None if nothing is."""
        if todo.item.is_video:  # its frames are looked up when it is read
            return todo
        missing = tuple(kind for kind in todo.missing if not self.storage.has(self.path(kind, todo.item.name)))
        return todo._replace(missing=missing) if missing else None

    def frames_there(self, item: Item) -> set[str]:
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
