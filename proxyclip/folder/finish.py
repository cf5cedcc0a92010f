"""The files that are made of all images together, once every image is finished; and the list of those that failed."""

import json
from collections.abc import Iterable, Iterator

from proxyclip.folder.inputs import Item, Items
from proxyclip.folder.job import Job
from proxyclip.folder.stream import Report
from proxyclip.folder.video import encode_video, examine

FAILED = "failed.jsonl"


def finish(job: Job, items: Items, failed: Iterable[Report]) -> list[str]:
    """Writes gathered files and videos; the names of those written, relative to `job.out`."""
    unusable = {report.path for report in failed}
    videos = [item for item in items.at(items.videos) if item.path not in unusable]
    frames = {item: job.frames_there(item) for item in videos}
    written = gather(job, items, frames)
    for item, there in frames.items():
        written += finish_video(job, item, there)
    return written


def gather(job: Job, items: Items, frames: dict[Item, set[str]]) -> list[str]:
    written = []
    for kind in job.formats_of(items):
        encoder = job.encoders[kind]
        files = encoder.gather(parts_of(job, kind, items, frames))
        for name, blocks in files.items():
            job.storage.write(name, blocks)
            written.append(name)
    return written


def parts_of(job: Job, kind: str, items: Items, frames: dict[Item, set[str]]) -> Iterator[bytes]:
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


def finish_video(job: Job, item: Item, there: set[str]) -> list[str]:
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
