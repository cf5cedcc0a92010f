"""A job on a Ray cluster: one actor with a model on each GPU, or on a few cores each. Needs Ray Data.

A batch whose actor is killed goes to another one, which leaves out the images that were finished.
"""

import logging
import os
from collections.abc import Iterator

from proxyclip.errors import InputError
from proxyclip.folder.job import Job, PendingInputs
from proxyclip.folder.stream import Report, segment_all

BATCH = 32  # images that an actor takes at a time
CORES = 2  # of an actor without a GPU


def run_on_ray(job: Job, pending: PendingInputs, address: str, processes: int | None) -> Iterator[Report]:
    """The reports of all images and frames, as they are finished.

    address: of the cluster, as `ray.init` takes it; "local" starts one on this machine. processes: actors (default: one
    for each GPU, or as many as the cores allow). Raises InputError if there is no Ray or no cluster.
    """
    ray = require_ray()
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot connect to the Ray cluster {address}: {str(error).splitlines()[0]}") from None
    try:
        held = ray.cluster_resources()
        gpus = int(held.get("GPU", 0))
        actors = processes or gpus or max(1, int(held.get("CPU", 1)) // CORES)
        needs = {"num_gpus": min(1, gpus / actors)} if gpus else {"num_cpus": 1}
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors)
        places = ray.data.range(len(pending), override_num_blocks=blocks(len(pending), actors))  # rows {"id": place}
        reports = places.map_batches(
            Actor, fn_constructor_args=(job, pending), compute=pool, batch_size=BATCH, batch_format="numpy", **needs
        )
        for row in reports.iter_rows():
            yield Report(row["path"], row["problem"])
    finally:
        ray.shutdown()


def blocks(count: int, actors: int) -> int:
    """Of the list of items: small enough that all actors have work until the end."""
    return max(1, min(count, max(actors, -(-count // BATCH))))


def require_ray():
    """The module; InputError without it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else the job's own lines drown
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError(
            "--ray needs Ray Data: pip install 'proxyclip[ray]', or in a checkout: pip install .[ray]"
        ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


class Actor:
    """A model that segments one batch of items after the other."""

    def __init__(self, job: Job, pending: PendingInputs):
        self.job, self.pending, self.model = job, pending, job.model.plan().build()

    def __call__(self, batch: dict) -> dict:
        """batch: {"id": the places of some items}."""
        pending = self.job.left_of(self.pending.at(batch["id"]))
        reports = list(segment_all(self.job, self.model, pending, workers=0))
        return {"path": [report.path for report in reports], "problem": [report.problem for report in reports]}
