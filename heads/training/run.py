"""A training run: its parts, how far it is, and its state on disk, from which it goes on as if it had never stopped.

One file holds all of the state, so a run that is killed at any moment leaves a state that fits together. The state of
random number generators is not in it: those of an iteration are seeded with the seed, the iteration and the rank alone.

On a CPU, with as many threads, a resumed run has exactly the losses of an unbroken one. On a GPU some sums have no
fixed order, and the last digits differ from run to run.
"""

import io
import math
import textwrap
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from heads.checkpoint import LAST, StoredHead, load_weights, save_checkpoint
from heads.head import TrainableHead
from heads.training.log import TrainingLog, explain_failed_write
from heads.training.objective import Objective, make_optimiser, trained_parameters
from heads.training.recipe import Recipe, Schedule
from proxyclip.backbones.checkpoints import load_strict, read_whole
from proxyclip.errors import InputError
from proxyclip.evaluation.ranks import Ranks
from proxyclip.files import write_whole
from proxyclip.loading import Plan

STATE = "state.pt"


@dataclass
class Progress:
    """How far a run is.

    iteration: how many are done. seconds: since the start, pauses between sessions left out. evaluated: the last
    iteration that was evaluated. best: the best score so far. sums, count: what the log will average over the
    iterations since its last line. finished: whether nothing is left to do.
    """

    iteration: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    best: float | None = None
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    finished: bool = False


@dataclass
class Training:
    """Everything that `heads.training.loop.train` needs except the data.

    head: on its device. folder: for all files. settings: what must be the same when the run goes on, plain values.
    facts: what checkpoints say about the run. limit: how many images an evaluation looks at, None for all of them.
    """

    head: TrainableHead
    recipe: Recipe
    schedule: Schedule
    folder: Path
    settings: dict
    facts: dict
    ranks: Ranks
    limit: int | None = None
    progress: Progress = field(default_factory=Progress)
    log: TrainingLog | None = None  # of the first rank

    def __post_init__(self):
        self.optimiser = make_optimiser(self.head, self.recipe)
        self.parameters = trained_parameters(self.head)
        self.images = self.recipe.batch * self.recipe.accumulation * self.ranks.world  # per iteration, of all ranks
        self.loss = math.nan  # of the last iteration
        self.choose = "mIoU" if self.recipe.setting == "fully" else "hIoU"  # what the best checkpoint is chosen by
        # Scores of a part of the images have another name, wherever they are written.
        self.score_name = "scores" if self.limit is None else f"scores_of_{self.limit}_images"

    def start(self) -> None:
        """Encodes class names, connects the ranks and starts the clock, once weights and progress are loaded."""
        self.objective, self.model = Objective(self.head, self.recipe), self.head
        if self.ranks.world > 1:
            gpus = [self.head.device] if self.head.device.type == "cuda" else None
            self.ranks.barrier()  # one of them may have waited for a download of weights
            parallel = torch.nn.parallel.DistributedDataParallel
            self.model = parallel(self.head, gpus, gradient_as_bucket_view=True)
        self.started = time.monotonic() - self.progress.seconds

    def done(self) -> float:
        """The share of the run that is over, the same on all ranks."""
        seconds = time.monotonic() - self.started
        self.progress.seconds = seconds if self.schedule.minutes is None else self.ranks.broadcast(seconds)
        return self.schedule.done(self.progress.iteration, self.progress.seconds)

    def due(self, every: int) -> bool:
        """Whether something that happens every so many iterations happens after the last one."""
        return every > 0 and self.progress.iteration > 0 and self.progress.iteration % every == 0

    def gradients(self) -> dict[str, Tensor]:
        """Name -> gradient of everything that is trained."""
        return {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}

    def check_best(self) -> None:
        """InputError, on the first rank, if no evaluation gave a number to choose the best checkpoint by."""
        if self.ranks.is_main and self.progress.best is None:
            raise InputError(
                f"no {self.choose} is a number: the evaluated labels lack the classes for it, so {self.folder} has no "
                f"best checkpoint, only {LAST}"
            )

    def save(self) -> None:
        """Writes the last checkpoint and the state. InputError if one cannot be written; an earlier one stays."""
        if not self.ranks.is_main:
            return
        self.save_weights(LAST, {})
        state = {
            "settings": self.settings,
            "clip": self.head.clip_fingerprint,
            "weights": self.head.trained(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        data = io.BytesIO()  # first to memory: torch.save hides what the file system says
        torch.save(state, data)
        with explain_failed_write(self.folder / STATE):
            write_whole(self.folder / STATE, lambda file: file.write(data.getbuffer()))

    def save_weights(self, name: str, scores: dict[str, float]) -> None:
        """Writes a checkpoint, with scores if they are known."""
        facts = {"iteration": self.progress.iteration} | ({self.score_name: scores} if scores else {})
        save_checkpoint(self.folder / name, self.head, self.facts | facts)

    def load(self, state: dict) -> None:
        """Sets weights, optimiser and progress to a saved state. InputError if the head or its CLIP are others."""
        file, head = self.folder / STATE, self.head
        if state["clip"] != head.clip_fingerprint:
            raise InputError(f"{file} is of a run on another CLIP than {head.clip.name}: it cannot be continued")
        load_strict(head, state["weights"], str(file), keep=head.frozen())
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError as error:
            raise InputError(f"{file} does not fit this head: {error}") from None
        self.progress = Progress(**state["progress"])


def begin(
    planned: Plan,
    recipe: Recipe,
    schedule: Schedule,
    *,
    folder: Path,
    settings: dict,
    facts: dict,
    ranks: Ranks,
    limit: int | None = None,
    resume: bool = False,
    start: StoredHead | None = None,
) -> Training:
    """The run, ready for `train`; most arguments are those of `Training`.

    resume: whether to continue from the state in the folder, if there is one; start: else the checkpoint to start from.
    Raises InputError for a state of another run, and for weights that do not fit.
    """
    file = folder / STATE
    state = read_state(file, settings) if ranks.broadcast(resume and file.exists()) else None
    head = planned.build(seed=recipe.seed).train()
    head.checkpointing = recipe.checkpointing
    head.clip_fingerprint  # noqa: B018 - kept from here on: of the CLIP before any training
    run = Training(head, recipe, schedule, folder, settings, facts, ranks, limit)
    if state:
        run.load(state)
    elif start:
        load_weights(head, start)
    else:
        head.load_published()
    run.start()
    if not state:
        run.save()  # so that a run that is killed before its first save can be continued
    if ranks.is_main and not run.progress.finished:
        run.log = TrainingLog(folder, run.progress.iteration, run.progress.evaluated)
    return run


def read_state(file: Path, settings: dict) -> dict:
    """The contents of a state file. InputError if it is damaged or something else, and for the first setting in which a
    run differs from the one it is to continue."""
    state = read_whole(file)
    try:
        Progress(**state["progress"])
        stored = state["settings"]
        stored.items(), state["weights"].items(), state["optimiser"].items(), state["clip"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{file} is not the state of a training run") from None
    for name in [*stored, *(settings.keys() - stored.keys())]:
        if stored.get(name) != settings.get(name):
            before, now = (textwrap.shorten(str(values.get(name)), 80) for values in (stored, settings))
            raise InputError(
                f"{file.parent} holds a run with {name} {before}, not {now}: continue it with its own settings, or "
                "choose another --workdir"
            )
    return state


def describe(run: Training, images: int) -> str:
    """What is trained on what, and the effective batch, in two lines. images: of the training set."""
    head, trained = run.head, sum(parameter.numel() for parameter in run.parameters.values())
    counts = f"{len(head.seen)} of {len(head.classes)} classes seen, {images} images"
    what = f"{head.method} on {run.facts['dataset']}, {run.facts['setting']}: {counts}, {trained / 1e6:.2f} M weights"
    counts = (run.recipe.batch, "image"), (run.ranks.world, "process"), (run.recipe.accumulation, "batch")
    parts = [f"{count} {name}{'' if count == 1 else 's' if name == 'image' else 'es'}" for count, name in counts]
    return f"{what}\neffective batch: {' × '.join(parts)} = {run.images} images per iteration"
