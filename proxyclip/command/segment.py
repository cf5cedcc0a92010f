"""Segments images, folders and videos by class names.

proxyclip segment photos/ --classes "sky, sea; ocean, boat" --out result --preset vitb16-dino
proxyclip segment "photos/**/*.jpg" clip.mp4 --classes words.txt --out result       patterns, videos, one class per line
proxyclip segment paths.txt --classes words.txt --out result --format coco --format labels     a file of paths; formats
proxyclip segment photos/ --classes words.txt --out result --dry-run                what would be done

A second run with the same --out continues where the first one ended. Exit code 1 if images could not be read: they are
listed in DIR/failed.jsonl. In a checkout, `python segment.py` is the same command and also takes --checkpoint.
"""

import argparse
import warnings
from collections.abc import Callable

from proxyclip.command.model_options import ModelChoice, add_model_options, chosen_model, new_parser
from proxyclip.errors import InputError
from proxyclip.export import format_names
from proxyclip.folder.inputs import Inputs, find_inputs
from proxyclip.folder.job import Job
from proxyclip.folder.video import require_av
from proxyclip.runtime import main_guard
from proxyclip.vocabulary import parse_classes_argument, with_background

LIMITS = {"processes": (1, 64), "workers": (0, 64), "frame_step": (1, 10**6), "max_pixels": (1, 10**12)}
FORMATS = ("labels", "overlay")  # of images, unless --format says otherwise; videos become videos
MOST_LISTED = 10


def parse(arguments: list[str] | None, heads: bool) -> argparse.Namespace:
    parser = new_parser(__doc__, None if heads else "segment")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, video, folder, pattern, .txt file of paths, or s3://...")
    add("--classes", required=True, metavar="LIST", help='"cat; kitten, grass, sky", or FILE.txt, one class per line')
    add("--out", required=True, metavar="DIR", help="output folder, or an address such as s3://bucket/folder")
    formats = f"repeatable; {', '.join(format_names())} (default: {' and '.join(FORMATS)}; of videos, a video)"
    add("--format", action="append", metavar="NAME", dest="formats", help=formats)
    add("--background", default="none", metavar="KIND", help="a class for the rest: threshold or vocabulary")
    add("--threshold", type=float, help="pixels below this probability are background; see calibrate.py")
    add("--frame-step", type=int, default=1, metavar="N", help="only every Nth frame of a video")
    add("--dry-run", action="store_true", help="only say what would be done")
    add_model_options(parser, heads)
    how = parser.add_argument_group("speed").add_argument
    how("--processes", type=int, metavar="N", help="models at a time (default: one per GPU; a few on a CPU)")
    how("--workers", type=int, metavar="N", help="processes that read images, for each model (default: by device)")
    how("--ray", metavar="ADDRESS", help='use a Ray cluster: its address, "auto", or "local" for this machine')
    how("--batch-windows", type=int, metavar="N", help="windows per batch (default: depends on their size)")
    add("--max-pixels", type=int, default=100_000_000, metavar="N", help="of an image (default: 100000000)")
    return parser.parse_intermixed_args(arguments)


@main_guard
def main(arguments: list[str] | None = None, trained: Callable | None = None) -> None:
    """trained: see `ModelChoice`; None where heads are not installed."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    options = parse(arguments, heads=trained is not None)
    for name, (least, most) in LIMITS.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"--{name.replace('_', '-')} must be from {least} to {most}, not {value}")
    job = job_of(options, chosen_model(options, trained))
    items = find_inputs(options.inputs, without=options.out)
    if items.videos:
        require_av()
    planned = job.model.plan()
    if options.dry_run:
        tell(job, items)
        return
    from proxyclip.folder.run import Means, run_job  # here: --help and wrong options do not wait for torch

    job.storage.check()
    job.check_record()
    if run_job(job, items, planned.device, Means(options.processes, options.workers, options.ray)):
        raise SystemExit(1)


def job_of(options: argparse.Namespace, model: ModelChoice) -> Job:
    from proxyclip.labels import LabelRule  # here: --help does not wait for torch

    classes = parse_classes_argument(options.classes)
    vocabulary, threshold = with_background(classes, options.background, options.threshold)
    LabelRule().with_threshold(threshold)  # raises InputError unless it is a probability
    job = Job(
        model,
        vocabulary,
        options.out,
        formats=tuple(dict.fromkeys(options.formats or FORMATS)),
        frame_formats=tuple(dict.fromkeys(options.formats or ())),
        frame_step=options.frame_step,
        calling={"threshold": threshold},
        batch_windows=options.batch_windows,
        max_pixels=options.max_pixels,
    )
    job.encoders  # noqa: B018 - raises for an unknown format
    return job


def tell(job: Job, items: Inputs) -> None:
    """What would be done."""
    pending = job.pending_inputs(items)
    videos = len(items.videos)
    print(f"images: {len(items) - videos}, videos: {videos}, of these finished: {len(items) - len(pending)}")
    print(f"model: {job.model.described()}")
    print(f"classes: {', '.join(job.vocabulary.names)}")
    for pending_input in pending[:MOST_LISTED]:
        outputs = [
            job.path(kind, pending_input.item.name) for kind in pending_input.missing if not pending_input.item.is_video
        ]
        outputs += [job.video_path(pending_input.item.name)] * pending_input.video
        print(f"{pending_input.item.path} -> {', '.join(f'{job.out}/{output}' for output in outputs)}")
    if len(pending) > MOST_LISTED:
        print(f"... and {len(pending) - MOST_LISTED} more")
