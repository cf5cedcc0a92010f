"""One process's share of a job: images are read ahead, segmented in shared batches, and written behind."""

import json
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import NamedTuple

import numpy as np

from proxyclip.errors import InputError, NotFound
from proxyclip.export.record import ImageRecord
from proxyclip.folder.inputs import Input, Inputs
from proxyclip.folder.job import Job, PendingInput, PendingInputs
from proxyclip.folder.storage import is_address, read_address
from proxyclip.folder.video import encode_video, examine, frame_name, frame_picture, frames_of
from proxyclip.images import open_image, read_image, rgb_from_pillow
from proxyclip.segmentation import Segmentation

WRITERS = 2  # threads: compressing an image releases Python's lock
IF_KILLED = "finished images are kept: run the same command again"


class Report(NamedTuple):
    """An image or frame is finished, or a problem says why it is not."""

    path: str
    problem: str = ""


class Loaded(NamedTuple):
    """An image to segment, and the files to write for it; or a problem instead."""

    path: str
    record: ImageRecord
    formats: tuple[str, ...]  # to write
    image: np.ndarray | None = None  # (H, W, 3) uint8
    overlay: bool = False  # whether to keep an overlay of a frame, for a video
    problem: str = ""


@dataclass(frozen=True)
class Share:
    """The part of a job that one process does; can be pickled.

    device: overrides that of the model. threads: of the model on a CPU (0: as many as there are cores). workers:
    processes that read images ahead; 0 reads in a thread. loud: whether warnings are shown.
    """

    job: Job
    pending: PendingInputs
    device: str | None = None
    threads: int = 0
    workers: int = 0
    loud: bool = True

    def __call__(self, model=None) -> Iterator[Report]:
        """Does it; called where the model is to run. model: is loaded if not given. Raises InputError where nothing can
        go on."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        with warnings.catch_warnings():
            if self.loud:
                warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
            else:
                warnings.simplefilter("ignore")
            model = self.job.model.on(self.device).plan().build() if model is None else model
            yield from segment_all(self.job, model, self.pending, self.workers)


def segment_all(job: Job, model, pending: PendingInputs, workers: int) -> Iterator[Report]:
    """Segments the items with a loaded model; a report for each image and frame, when its files are written."""
    segmented, failed = deque(), deque()  # those whose windows are being scored, oldest first; reports of problems
    given = deque()  # names of images that were handed over

    def images(stream: Iterator[Loaded]) -> Iterator[np.ndarray]:
        for loaded in stream:
            if loaded.problem:
                failed.append(Report(loaded.path, loaded.problem))
            else:
                segmented.append(loaded)
                given.append(loaded.record.name)
                yield np.asarray(loaded.image)  # of a worker, a tensor

    def names() -> Iterator[str]:
        while given:  # one for each image; none is left when the images end
            yield given.popleft()

    if model.refinement is not None:
        model.refinement.check(pending_input.item.name for pending_input in pending if not pending_input.item.is_video)
    with load_all(job, pending, workers) as stream, Writers(job) as writers:
        every = any(job.encoders[kind].PROBABILITIES for kind in pending.kinds())
        calling = job.calling | {"batch_windows": job.batch_windows, "max_pixels": job.max_pixels}
        calling["probabilities"] = job.vocabulary.names if every else ()
        for result in model.segment_each(images(stream), job.vocabulary, names=names(), **calling):
            yield from writers.write(segmented.popleft()._replace(image=None), result)
            while failed:
                yield failed.popleft()
        yield from writers.finish()
    yield from failed


class Writers:
    """Writes results in threads, a few behind the model."""

    def __init__(self, job: Job):
        self.job, self.threads, self.writing = job, ThreadPoolExecutor(WRITERS, "writing"), deque[Future]()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_) -> None:
        self.threads.shutdown(cancel_futures=True)

    def write(self, loaded: Loaded, result: Segmentation) -> Iterator[Report]:
        """Starts to write one result, and reports on earlier ones; raises their errors."""
        self.writing.append(self.threads.submit(self.save, loaded, result))
        while len(self.writing) > 2 * WRITERS or (self.writing and self.writing[0].done()):
            yield self.writing.popleft().result()

    def finish(self) -> Iterator[Report]:
        while self.writing:
            yield self.writing.popleft().result()

    def save(self, loaded: Loaded, result: Segmentation) -> Report:
        job, record = self.job, loaded.record
        try:
            files = {job.path(kind, record.name): job.encoders[kind].encode(result, record) for kind in loaded.formats}
        except InputError as error:  # the format cannot hold this image, for instance its name
            return Report(loaded.path, str(error))
        if loaded.overlay:
            files[job.frame_path(record.name)] = frame_picture(result)
        for name, data in files.items():
            job.storage.write(name, data)
        return Report(loaded.path)


@contextmanager
def load_all(job: Job, pending: PendingInputs, workers: int) -> Iterator[Iterator[Loaded]]:
    """All images, then all frames of videos that are not finished; its workers end with the block."""
    from proxyclip.evaluation.reading import one_ahead, read_ahead  # here: it needs torch

    pending_images, videos = pending.parted()
    images, order = Images(pending_images, job.max_pixels), range(len(pending_images))
    frames = one_ahead(frame for pending_input in videos for frame in load_frames(job, pending_input))
    with read_ahead(images, order, workers=min(workers, len(order)), advice=IF_KILLED) as loaded, closing(frames):
        yield chain(loaded, frames)


class Images:
    """`images[index]` is image number `index`, read. Picklable."""

    def __init__(self, pending: PendingInputs, max_pixels: int):
        self.pending, self.max_pixels = pending, max_pixels

    def __getitem__(self, index: int) -> Loaded:
        pending_input = self.pending[index]
        item = pending_input.item
        loaded = Loaded(item.path, record_of(item), pending_input.missing)
        try:
            return loaded._replace(image=read_item(item.path, self.max_pixels))
        except (InputError, NotFound) as error:
            return loaded._replace(problem=str(error))


def read_item(path: str, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 of a file or an object."""
    if not is_address(path):
        return read_image(path, max_pixels)
    file = BytesIO(read_address(path))
    return rgb_from_pillow(open_image(path, file=file), f"image {path}", max_pixels)


def load_frames(job: Job, pending_input: PendingInput) -> Iterator[Loaded]:
    """The frames of a video that are not finished."""
    item, there = pending_input.item, job.frames_there(pending_input.item)
    try:
        for number, image in frames_of(item.path, job.frame_step, job.max_pixels):
            name = frame_name(item.name, number)
            missing = tuple(kind for kind in pending_input.missing if job.path(kind, name) not in there)
            overlay = pending_input.video and job.frame_path(name) not in there
            if missing or overlay:
                record = ImageRecord(name, f"{item.file_name}/{number}")
                yield Loaded(item.path, record, missing, image, overlay)
    except (InputError, NotFound) as error:
        yield Loaded(item.path, record_of(item), (), problem=str(error))


def record_of(item: Input) -> ImageRecord:
    return ImageRecord(item.name, item.file_name)


FAILED = "failed.jsonl"


def finish(job: Job, items: Inputs, failed: Iterable[Report]) -> list[str]:
    """Writes gathered files and videos; the names of those written, relative to `job.out`."""
    unusable = {report.path for report in failed}
    videos = [item for item in items.at(items.videos) if item.path not in unusable]
    frames = {item: job.frames_there(item) for item in videos}
    written = gather(job, items, frames)
    for item, there in frames.items():
        written += finish_video(job, item, there)
    return written


def gather(job: Job, items: Inputs, frames: dict[Input, set[str]]) -> list[str]:
    written = []
    for kind in job.formats_of(items):
        encoder = job.encoders[kind]
        files = encoder.gather(parts_of(job, kind, items, frames))
        for name, blocks in files.items():
            job.storage.write(name, blocks)
            written.append(name)
    return written


def parts_of(job: Job, kind: str, items: Inputs, frames: dict[Input, set[str]]) -> Iterator[bytes]:
    """The file of each image in a format, in the order of the inputs; those that failed have none."""
    for item in items:
        if item.is_video:
            folder = job.path(kind, item.name).removesuffix(job.encoders[kind].SUFFIX) + "/"
            names = sorted(name for name in frames.get(item, ()) if name.startswith(folder))
        else:
            names = [job.path(kind, item.name)]
        for name in names:
            try:
                yield job.storage.read(name)
            except FileNotFoundError:  # the image could not be read
                continue


def finish_video(job: Job, item: Input, there: set[str]) -> list[str]:
    """Makes the video of the frames' overlays, unless it exists, and removes them."""
    path, written = job.video_path(item.name), []
    folder = job.frame_path(item.name).removesuffix(".jpg") + "/"
    overlays = sorted(name for name in there if name.startswith(folder))
    if not job.storage.has(path):
        rate = examine(item.path).rate / job.frame_step
        job.storage.write(path, encode_video(map(job.storage.read, overlays), rate))
        written = [path]
    job.storage.write(job.marker_path(item.name), json.dumps(job.frame_formats).encode())
    for name in overlays:
        job.storage.remove(name)
    job.storage.remove_folder(folder)
    return written


class Failures:
    """The reports of problems; each is written down when it happens, in DIR/failed.jsonl, one line of JSON each."""

    def __init__(self, job: Job, write: bool):
        self.job, self.write, self.reports = job, write, []
        if write:
            job.storage.remove(FAILED)  # of an earlier run, which this one tries again

    def add(self, report: Report) -> None:
        self.reports.append(report)
        if self.write:
            write_failed(self.job, self.reports)


def write_failed(job: Job, reports: Iterable[Report]) -> None:
    lines = (json.dumps({"input": report.path, "problem": report.problem}) + "\n" for report in reports)
    job.storage.write(FAILED, "".join(lines).encode())
