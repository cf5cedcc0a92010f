"""Several processes for one job, each with a model of its own: one for each GPU, or a few that share the CPU."""

import sys
import warnings
from collections.abc import Iterator
from functools import partial
from multiprocessing import connection
from typing import NamedTuple

from proxyclip.folder.job import Job
from proxyclip.folder.stream import IF_KILLED, Report, Share
from proxyclip.folder.todos import Todos
from proxyclip.runtime import cores, threads_each
from proxyclip.workers import Worker

CPU_PROCESSES = 4  # at most: each holds the weights
WORTH_A_PROCESS = 100  # images: starting one takes seconds
END = "end"
KILLED = f"a process was killed, possibly out of memory; {IF_KILLED}, with fewer --processes if it happens again"
READERS = 8  # worker processes for each GPU, at most


class Crew(NamedTuple):
    """devices: of each process (None: that of the model). threads: of each on a CPU. workers: that read for each.
    forks: whether the processes are forked, after the model is loaded; an accelerator does not survive that."""

    devices: tuple[str | None, ...]
    threads: int
    workers: int
    forks: bool = False


def crew_for(device, images: int, processes: int | None, workers: int | None) -> Crew:
    """The processes for so many images on a device (a torch.device).

    processes, workers: as asked for, or None. On a CPU, a few processes with a share of the cores each are faster than
    one with all of them, since reading, deciding and writing use one core.
    """
    useful = max(1, -(-images // WORTH_A_PROCESS))
    if device.type == "cuda" and device.index is None:
        import torch

        count = processes or min(torch.cuda.device_count(), useful)
        devices = tuple(f"cuda:{index % torch.cuda.device_count()}" for index in range(count))
    else:
        count = processes or (min(cores(), CPU_PROCESSES, useful) if device.type == "cpu" else 1)
        devices = (None,) * count
    if workers is None:
        workers = 0 if device.type == "cpu" else min(READERS, max(1, cores() // count - 1))
    forks = device.type == "cpu" and sys.platform == "linux"
    return Crew(devices, threads_each(count), workers, forks)


def run(job: Job, todos: Todos, crew: Crew) -> Iterator[Report]:
    """The reports of all images, in the order in which they are finished. Closing it early ends the processes."""
    count = len(crew.devices)
    shares = [
        Share(job, todos[place::count], device, crew.threads, crew.workers, loud=not place)
        for place, device in enumerate(crew.devices)
    ]
    if count == 1:
        return shares[0]()
    shares = [share for share in shares if share.todos]
    if crew.forks and job.model.options.get("backend") != "openvino":  # its threads would be missing after the fork
        return received(forked(job, shares))
    return received([Worker(partial(with_end, share), "spawn") for share in shares])


def forked(job: Job, shares: list[Share]) -> list[Worker]:
    """Processes that share the weights of one model, and need not import anything."""
    import torch

    torch.set_num_threads(1)  # threads of OpenMP that exist now would be missing after the fork
    model = job.model.plan().build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each process says for itself what there is to say
        model.encode_classes(job.vocabulary)
    return [Worker(partial(with_end, share, model), "fork") for share in shares]


def with_end(share: Share, model=None) -> Iterator[Report | str]:
    """The reports, and END: a process that is killed does not say so."""
    yield from share(model)
    yield END


def received(started: list[Worker]) -> Iterator[Report]:
    """What the processes send, until all are finished."""
    by_pipe = {worker.receiving: worker for worker in started}
    try:
        while by_pipe:
            for pipe in connection.wait([*by_pipe]):
                report = by_pipe[pipe].receive(KILLED)
                if report == END:
                    del by_pipe[pipe]
                else:
                    yield report
    finally:
        for worker in started:
            worker.end()
