"""One run, from names and uploads to results that are held in memory, and what is shown and saved of them.

Shapes: H × W the image, h × w as the page shows it, K classes.
"""

import json
import os
import secrets
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cachetools import LRUCache
from PIL import Image

from proxyclip.app.models import NONE, Models
from proxyclip.errors import InputError, NotFound
from proxyclip.export import find_format, format_names
from proxyclip.export.record import ImageRecord
from proxyclip.files import file_name
from proxyclip.images import read_image
from proxyclip.pictures.overlay import display_size, heatmap, nearest, overlay, quantised, smooth
from proxyclip.segmentation import Segmentation
from proxyclip.vocabulary import Vocabulary, shortened, split_names, with_background

LONGEST = 1024  # pixels of a side on the page; files have the size of the image
MOST_VALUES = 32_000_000  # of the probabilities of all classes that are computed at once: 128 MB
MOST_IMAGES, MOST_LETTERS = 16, 100  # of one run; of a name
FILES = ["labels", "overlay", "summary", *sorted({*format_names()} - {"labels", "overlay"})]  # summary: JSON
_recording = threading.Lock()


class Limits(NamedTuple):
    """Pixels of an image, bytes of its file, names in a list, and bytes of all results, and again of all files."""

    pixels: int = 16_000_000
    upload: int = 32_000_000
    names: int = 200
    memory: int = 1_000_000_000


def read_names(text, limits: Limits) -> Vocabulary:
    """Classes from text: one per line or separated by commas, the names of a class by semicolons. InputError."""
    classes = [name.strip() for name in str(text).replace("\n", ",").split(",") if name.strip()]
    names = [name for text in classes for name in split_names(text)]
    if not names:
        raise InputError("there are no names yet: write what to look for, such as sky, sea; ocean, sand")
    if len(names) > limits.names:
        raise InputError(f"the list has {len(names)} names; at most {limits.names} are accepted")
    if long := [shortened(name, 30) for name in names if len(name) > MOST_LETTERS]:
        raise InputError(f"the name {long[0]} is too long; at most {MOST_LETTERS} letters are accepted")
    return Vocabulary.parse(classes)


@contextmanager
def notes() -> Iterator[list[str]]:
    """The list fills with our warnings in the block when it ends; Python's filters are shared by all threads."""
    messages = []
    with _recording, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="proxyclip")
        yield messages
    messages += [str(warning.message) for warning in caught]


@dataclass(eq=False)
class Result:
    """An image segmented by one method or two. settings: as they were chosen. tasks: title of a method -> arguments of
    `Models.segment`. run: name -> key of all results of the run."""

    name: str
    settings: list
    notes: list[str]
    tasks: dict[str, dict]
    segmentations: dict[str, Segmentation]
    run: dict[str, str]

    def __post_init__(self):
        self.first = next(iter(self.segmentations.values()))
        self.names = find_format("labels", self.first.classes).names  # K
        self.colours = {n: "#" + bytes(c).hex() for n, c in zip(self.names, self.first.colours(), strict=True)}
        factor = min(1, LONGEST / max(self.first.labels.shape))
        self.size = tuple(max(1, round(side * factor)) for side in self.first.labels.shape)  # (h, w)
        self.image = smooth(self.first.image, self.size)  # (h, w, 3)
        self.heat = {}  # title, name -> probability (h, w) uint8, 255 for 1
        for title, segmentation in self.segmentations.items():
            self.keep_heat(title, segmentation)
        arrays = [array for s in self.segmentations.values() for array in (s.labels, s.confidence)]
        heat_bytes = len(self.tasks) * len(self.names) * self.size[0] * self.size[1]
        self.nbytes = sum(array.nbytes for array in (*arrays, self.first.image, self.image)) + heat_bytes

    def keep_heat(self, title: str, segmentation: Segmentation) -> None:
        """Takes the probabilities out of a segmentation: at full size, they are as large as K images."""
        for name, probability in segmentation.probabilities.items():
            name = self.names[segmentation.classes.index(name)]
            self.heat[title, name] = quantised(nearest(probability, self.size), np.uint8)  # (h, w)
        segmentation.probabilities = {}

    def annotations(self, opacity: float) -> tuple:
        """The image (h, w, 3), and a mask (h, w) with the name of each class in it, the largest first."""
        labels, areas = nearest(self.first.labels, self.size), [*self.first.areas().values()]  # (h, w), (K,)
        order = sorted(np.unique(labels).tolist(), key=lambda label: -areas[label])
        return self.image, [((labels == label) * opacity, self.names[label]) for label in order]

    def picture(self, title: str, name: str, opacity: float) -> Image.Image:
        """The heat map of a class, or with name "" all classes in colour."""
        if name:
            return heatmap(self.image, self.heat[title, name] / 255, opacity)
        return overlay(self.image, nearest(self.segmentations[title].labels, self.size), self.first.colours(), opacity)

    def pixel(self, x: int, y: int) -> str:
        """Class and probability at a pixel of a picture, by each method; nothing beside the image."""
        height, width = display_size(*self.size)
        if not (0 <= x < width and 0 <= y < height):
            return ""
        at = int(y * self.first.labels.shape[0] / height), int(x * self.first.labels.shape[1] / width)
        found = {title: (self.names[s.labels[at]], s.confidence[at]) for title, s in self.segmentations.items()}
        return ", ".join(f"{title}: {name} {100 * value:.0f} %" for title, (name, value) in found.items())

    def table(self) -> dict:
        """For each class, the largest first, its area and mean probability by each method, in percent."""
        fields, rows = {"area": "area", "mean_confidence": "probability"}, []
        for name, *entries in zip(
            self.names, *(s.summary()["classes"] for s in self.segmentations.values()), strict=True
        ):
            values = [entry[field] for entry in entries for field in fields]
            rows.append([name, *(None if value is None else round(100 * value, 1) for value in values)])
        several = (f" ({title})" if len(self.tasks) > 1 else "" for title in self.tasks)
        headers = [f"{what} %{title}" for title in several for what in fields.values()]
        return {"headers": ["class", *headers], "data": sorted(rows, key=lambda row: -row[1])}


class Results:
    """What is held for all visitors, under keys that nobody can guess; those not used for the longest time go first.

    folder: of uploads and of files to download.
    """

    def __init__(self, models: Models, limits: Limits, folder: Path):
        self.models, self.limits, self.folder, self._lock = models, limits, folder, threading.Lock()
        self.held: LRUCache[str, Result] = LRUCache(limits.memory, getsizeof=lambda result: result.nbytes)

    def get(self, key: str) -> Result:
        """The result of that key; InputError if it is not held any more."""
        with self._lock:
            if key not in self.held:
                raise InputError("this result is no longer held here: segment the image again")
            return self.held[key]

    def run(self, uploads: list, settings: list, tell, warn) -> Iterator[str]:
        """The key of the result of each image, one after the other.

        uploads: Gradio's descriptions of uploaded files. settings: names, pair, method, another method or NONE,
        refinement, background, threshold. tell: is called with what is being done; warn: with the reason why an image
        is left out. Raises InputError or NotFound if nothing can be segmented.
        """
        text, pair, method, other, refine, background, threshold = settings
        with notes() as heard:
            threshold = threshold if background == "threshold" else None
            vocabulary, threshold = with_background(read_names(text, self.limits), background, threshold)
        task = {"pair": pair, "refine": refine, "vocabulary": vocabulary, "threshold": threshold}
        methods = [method, *([] if other == NONE else [other])]
        tasks = {self.models.plan(pair, method, refine)[0]: task | {"method": method} for method in methods}
        if not 1 <= len(uploads) <= MOST_IMAGES:
            raise InputError(f"1 to {MOST_IMAGES} images are segmented at once: open one, or choose an example")
        run, bad = {}, []
        for number, upload in enumerate(uploads, 1):
            try:
                image, name = self.read(**upload)
                name, segmentations = f"{name}-{number}" if name in run else name, {}
                wanted = vocabulary.names if len(vocabulary.names) * image.size <= 3 * MOST_VALUES else ()
                with notes() as found:
                    for title, task in tasks.items():
                        tell(f"{title}, image {number} of {len(uploads)}")
                        segmentations[title] = self.models.segment(image, name, wanted, **task)
                result = Result(name, settings, [*dict.fromkeys(heard + found)], tasks, segmentations, run)
                if result.nbytes > self.limits.memory:
                    raise InputError(f"the result of {name} takes more memory than there is here: use a smaller image")
            except InputError as error:
                bad.append(error)
                continue
            run[name] = secrets.token_urlsafe(16)
            with self._lock:
                self.held[run[name]] = result
            yield run[name]
        for error in bad:
            if not run:
                raise error
            warn(str(error))

    def read(self, path=None, orig_name=None, **_) -> tuple[np.ndarray, str]:
        """Image (H, W, 3) uint8 and its name, of an uploaded file; InputError."""
        if not inside(path, self.folder):
            raise InputError("an image must be uploaded: open it again")
        title = Path(str(orig_name or path)).name
        try:
            return read_image(path, self.limits.pixels), file_name(Path(title).stem, 80)
        except NotFound:
            raise InputError(f"{shortened(title, 60)} is no longer held here: open it again") from None
        except InputError as error:
            raise InputError(str(error).replace(f"image {path}", shortened(title, 60))) from None

    def add_heat(self, result: Result, name: str) -> None:
        """Adds the heat maps of a class; runs the models if all of them together were too large for that."""
        if name not in result.names:
            raise InputError(f"the result has no class {name!r}")
        for title, segmentation in result.segmentations.items():
            if (title, name) not in result.heat:
                wanted, task = [segmentation.classes[result.names.index(name)]], result.tasks[title]
                result.keep_heat(title, self.models.segment(segmentation.image, result.name, wanted, **task))

    def save(self, result: Result, kind: str) -> Path:
        """A file of the result, called after its image, or a zip of all results of its run. kind: one of FILES."""
        results = [self.get(key) for key in result.run.values()]
        folder = self.folder / secrets.token_urlsafe(16)
        folder.mkdir()
        if len(results) == 1:
            name, content = next(self.files(results, kind))
            path = folder / f"{result.name}_{kind}{Path(name).suffix}"
            path.write_bytes(content)
            return path
        path = folder / f"{len(results)}_images_{kind}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.files(results, kind):
                archive.writestr(name, content)
        return path

    def files(self, results: list[Result], kind: str) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files of each image, then of those of the whole run."""
        if kind == "summary":
            yield from ((f"{r.name}.json", json.dumps(r.first.summary(), indent=1).encode()) for r in results)
            return
        format, parts = find_format(kind, results[0].first.classes), []
        for result in results:
            segmentation, task = result.first, next(iter(result.tasks.values()))
            if format.PROBABILITIES:
                if len(result.names) * segmentation.labels.size > MOST_VALUES:
                    raise InputError(f"{kind} of {result.name} are too large for the page: use proxyclip segment")
                segmentation = self.models.segment(segmentation.image, result.name, segmentation.classes, **task)
            parts.append(format.encode(segmentation, ImageRecord(result.name, result.name)))
            if not format.GATHERED:
                yield f"{format.FOLDER}/{result.name}{format.SUFFIX}", parts.pop()
        for name, chunks in format.gather(iter(parts)).items():
            yield name, b"".join(chunks)


def inside(path, folder: Path) -> bool:
    """Whether it is the path of something in the folder, however it is written."""
    return isinstance(path, str) and "\0" not in path and folder in Path(os.path.abspath(path)).parents
