"""A whole job: what is missing is segmented by one or several processes, with a progress bar and a summary."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing import connection
from typing import NamedTuple

import cv2

from proxyclip.errors import InputError, NotFound
from proxyclip.evaluation.ranks import Ranks, rank_device, start_ranks
from proxyclip.folder.inputs import Inputs
from proxyclip.folder.job import Job, PendingInput, PendingInputs
from proxyclip.folder.on_ray import run_on_ray
from proxyclip.folder.stream import FAILED, IF_KILLED, Failures, Report, Share, finish, write_failed
from proxyclip.folder.video import examine
from proxyclip.runtime import cores, progress_bar, threads_each

MOST_LISTED = 10  # failures that are printed


class Means(NamedTuple):
    """What a job runs on. processes, workers: see `choose_processes`. ray: the address of a cluster to use instead."""

    processes: int | None = None
    workers: int | None = None
    ray: str | None = None


def run_job(job: Job, items: Inputs, device, means: Means) -> bool:
    """Segments what is missing, and says what was done; whether there were failures.

    device: of the model, a torch.device. Started by torchrun, each process segments its share of the items, and the
    first one finishes the job. Raises InputError where nothing can go on.
    """
    with start_ranks(advice=IF_KILLED) as ranks:
        pending = job.pending_inputs(ranks.share(items))
        failures = Failures(job, write=ranks.is_main)
        for report in with_bar(reports_of(job, pending, device, means, ranks), pending, ranks):
            if report.problem:
                failures.add(report)
        failed = [report for reports in ranks.gather(failures.reports) for report in reports]  # waits for the others
        if ranks.is_main:
            if failed and ranks.world > 1:
                write_failed(job, failed)
            written = finish(job, items, failed)
            summarise(job, len(items), failed, written)
    return bool(failed)


def reports_of(job: Job, pending: PendingInputs, device, means: Means, ranks: Ranks) -> Iterator[Report]:
    """The reports of this process and those it starts."""
    if means.ray is not None:
        return run_on_ray(job, pending, means.ray, means.processes)
    if ranks.world > 1:
        return run(job, pending, ProcessSetup((rank_device(str(device)),), 0, means.workers or 0))
    return run(job, pending, choose_processes(device, len(pending), means.processes, means.workers))


def with_bar(reports: Iterator[Report], pending: PendingInputs, ranks: Ranks) -> Iterator[Report]:
    if not ranks.is_main:
        return reports
    images, videos = pending.parted()
    return progress_bar(reports, len(images) + sum(map(frames_in, videos)), "segmenting", "image")


def frames_in(pending_input: PendingInput) -> int:
    """An estimate of the frames of a video, for the progress bar."""
    try:
        return examine(pending_input.item.path).frames
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


CPU_PROCESSES = 4  # at most: each holds the weights
WORTH_A_PROCESS = 100  # images: starting one takes seconds
END = "end"
KILLED = f"a process was killed, possibly out of memory; {IF_KILLED}, with fewer --processes if it happens again"
READERS = 8  # worker processes for each GPU, at most


class ProcessSetup(NamedTuple):
    """devices: of each process (None: that of the model). threads: of each on a CPU. workers: that read for each.
    forks: whether the processes are forked, after the model is loaded; an accelerator does not survive that."""

    devices: tuple[str | None, ...]
    threads: int
    workers: int
    forks: bool = False


def choose_processes(device, images: int, processes: int | None, workers: int | None) -> ProcessSetup:
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
    return ProcessSetup(devices, threads_each(count), workers, forks)


def run(job: Job, pending: PendingInputs, setup: ProcessSetup) -> Iterator[Report]:
    """The reports of all images, in the order in which they are finished. Closing it early ends the processes."""
    count = len(setup.devices)
    shares = [
        Share(job, pending[place::count], device, setup.threads, setup.workers, loud=not place)
        for place, device in enumerate(setup.devices)
    ]
    if count == 1:
        return shares[0]()
    shares = [share for share in shares if share.pending]
    if setup.forks and job.model.options.get("backend") != "openvino":  # its threads would be missing after the fork
        return receive_all(fork_all(job, shares))
    return receive_all([ShareProcess(share, "spawn") for share in shares])


def fork_all(job: Job, shares: list[Share]) -> list["ShareProcess"]:
    """Processes that share the weights of one model, and need not import anything."""
    import torch

    torch.set_num_threads(1)  # threads of OpenMP that exist now would be missing after the fork
    model = job.model.plan().build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each process says for itself what there is to say
        model.encode_classes(job.vocabulary)
    return [ShareProcess(share, "fork", model) for share in shares]


class ShareProcess:
    """A process that does its share of the job. Its reports come through a pipe of its own, which ends if it is killed.

    start: a start method of multiprocessing. model: for a process that is forked.
    """

    def __init__(self, share: Share, start: str, model=None):
        self.reports, sending = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context(start).Process(target=run_share, args=(share, model, sending))
        self.process.start()
        sending.close()  # the process has the only one

    def receive(self) -> Report | str:
        """The next report, or END; raises its error, and InputError if the process was killed."""
        try:
            report = self.reports.recv()
        except (EOFError, OSError):
            raise InputError(KILLED) from None
        if isinstance(report, Exception):
            raise report
        return report

    def end(self) -> None:
        self.process.kill()  # SIGTERM may have a handler that was inherited
        self.process.join()


def run_share(share: Share, model, sending) -> None:
    """Sends the reports of a share, then END: a process that is killed does not say so. Ctrl-C is for the parent, with
    which this process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    cv2.setNumThreads(0)  # otherwise it waits forever for threads of the process that this one was forked from
    try:
        for report in share(model):
            sending.send(report)
        sending.send(END)
    except BrokenPipeError:  # nobody waits for the rest
        return
    except (InputError, NotFound) as error:
        sending.send(error)
    except Exception:  # an error in the code: its traceback belongs to the process that has a terminal
        sending.send(RuntimeError(f"a process failed:\n{traceback.format_exc()}"))


def end_with_parent() -> None:
    """It would wait forever to hand over the report that it has."""
    multiprocessing.parent_process().join()
    os._exit(1)


def receive_all(processes: list[ShareProcess]) -> Iterator[Report]:
    """What the processes send, until all are finished."""
    running = {process.reports: process for process in processes}
    try:
        while running:
            for pipe in connection.wait([*running]):
                report = running[pipe].receive()
                if report == END:
                    del running[pipe]
                else:
                    yield report
    finally:
        for process in processes:
            process.end()
