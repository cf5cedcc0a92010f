"""results.jsonl as a workbook: a paper's table, all runs with their protocols, and the classes of each dataset."""

import gc
import io
import sys
from pathlib import Path

from openpyxl import Workbook

from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.reports.benchmark_sheet import benchmark_sheet, ordered
from proxyclip.reports.cell_styles import sheet_name
from proxyclip.reports.class_sheet import class_sheet
from proxyclip.reports.frames import classes_frame, newest, runs_frame, zero_shot_frame
from proxyclip.reports.published_sheet import published_sheet
from proxyclip.reports.runs_sheet import runs_sheet
from proxyclip.reports.zero_shot_sheet import zero_shot_sheet


def render(runs: list[dict], path: Path, published: dict) -> None:
    """Writes the workbook of all runs, the lines that `read_log` returns; a reader meets the old file or the new one.

    published: scores in print, as `proxyclip.reports.published` describes them; {} for none. They are marked as
    published wherever they stand. Raises InputError if the file cannot be replaced.
    """
    book, frame = Workbook(), runs_frame(runs, published)
    chosen = newest(frame)
    book.active.title = "benchmark"
    benchmark_sheet(book.active, frame, published)
    runs_sheet(book.create_sheet("runs"), frame)
    splits = zero_shot_frame(runs, chosen)
    if len(splits):
        zero_shot_sheet(book.create_sheet("zero-shot"), splits, published)
    if published.get("mIoU"):
        published_sheet(book.create_sheet("published"), published)
    figures = classes_frame(runs, chosen)
    by_dataset = dict(list(figures.groupby("dataset")))
    for dataset in ordered(by_dataset):
        class_sheet(book.create_sheet(sheet_name(dataset, book.sheetnames)), by_dataset[dataset])
    try:
        write_whole(path, lambda file: file.write(to_bytes(book)))
    except (OSError, InputError) as error:
        hint = "; is it open in another program?" if isinstance(error, PermissionError) else ""
        reason = error if isinstance(error, InputError) else f"cannot write {path} ({error.strerror or error}{hint})"
        raise InputError(
            f"{reason}; no scores are lost, all are in {path.with_suffix('.jsonl')}: fix this, then run "
            f"python eval_all.py --render --workdir {path.parent}"
        ) from None


def to_bytes(book: Workbook) -> bytes:
    """The file's content. openpyxl takes a detour over the folder of temporary files; OSError if that is full."""
    content, problem = io.BytesIO(), None
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # its half-written parts complain when they go
    try:
        try:
            book.save(content)
        except OSError as error:
            problem = error.errno, f"{error.strerror}, for temporary files"
        if problem:  # not above, where the error still holds those parts
            gc.collect()
    finally:
        sys.unraisablehook = hook
    if problem:
        raise OSError(*problem)
    return content.getvalue()
