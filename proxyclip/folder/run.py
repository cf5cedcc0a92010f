"""A whole job: what is missing is segmented by one or several processes, with a progress bar and a summary."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

from proxyclip.errors import InputError, NotFound
from proxyclip.evaluation.ranks import Ranks, rank_device, start_ranks
from proxyclip.folder.crew import Crew, crew_for, run
from proxyclip.folder.finish import FAILED, Failures, finish, write_failed
from proxyclip.folder.items import Items
from proxyclip.folder.job import Job
from proxyclip.folder.on_ray import run_on_ray
from proxyclip.folder.stream import IF_KILLED, Report
from proxyclip.folder.todos import Todo, Todos
from proxyclip.folder.video import examine
from proxyclip.runtime import progress_bar

MOST_LISTED = 10  # failures that are printed


class Means(NamedTuple):
    """What a job runs on. processes, workers: see `crew_for`. ray: the address of a cluster to use instead."""

    processes: int | None = None
    workers: int | None = None
    ray: str | None = None


def run_job(job: Job, items: Items, device, means: Means) -> bool:
    """Segments what is missing, and says what was done; whether there were failures.

    device: of the model, a torch.device. Started by torchrun, each process segments its share of the items, and the
    first one finishes the job. Raises InputError where nothing can go on.
    """
    with start_ranks(advice=IF_KILLED) as ranks:
        todos = job.todo(ranks.share(items))
        failures = Failures(job, write=ranks.is_main)
        for report in with_bar(reports_of(job, todos, device, means, ranks), todos, ranks):
            if report.problem:
                failures.add(report)
        failed = [report for reports in ranks.gather(failures.reports) for report in reports]  # waits for the others
        if ranks.is_main:
            if failed and ranks.world > 1:
                write_failed(job, failed)
            written = finish(job, items, failed)
            summarise(job, len(items), failed, written)
    return bool(failed)


def reports_of(job: Job, todos: Todos, device, means: Means, ranks: Ranks) -> Iterator[Report]:
    """The reports of this process and those it starts."""
    if means.ray is not None:
        return run_on_ray(job, todos, means.ray, means.processes)
    if ranks.world > 1:
        return run(job, todos, Crew((rank_device(str(device)),), 0, means.workers or 0))
    return run(job, todos, crew_for(device, len(todos), means.processes, means.workers))


def with_bar(reports: Iterator[Report], todos: Todos, ranks: Ranks) -> Iterator[Report]:
    if not ranks.is_main:
        return reports
    images, videos = todos.parted()
    return progress_bar(reports, len(images) + sum(map(frames_in, videos)), "segmenting", "image")


def frames_in(todo: Todo) -> int:
    """An estimate of the frames of a video, for the progress bar."""
    try:
        return examine(todo.item.path).frames
    except (InputError, NotFound):  # reported when its turn comes
        return 1


def summarise(job: Job, items: int, failed: list, written: list[str]) -> None:
    inputs = {report.path: report.problem for report in failed}
    print(f"{items - len(inputs)} of {items} inputs are finished in {job.out}")
    for name in written:
        print(f"written: {job.out}/{name}")
    if not inputs:
        return
    print(f"{len(inputs)} could not be segmented, see {job.out}/{FAILED}:", file=sys.stderr)
    for problem in [*inputs.values()][:MOST_LISTED]:
        print(f"  {problem}", file=sys.stderr)
