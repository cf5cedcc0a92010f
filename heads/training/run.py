"""A training run: its parts, how far it is, and what it keeps on disk."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from heads.checkpoint import LAST, save_checkpoint
from heads.head import TrainableHead
from heads.training.log import TrainingLog
from heads.training.objective import Objective
from heads.training.optimiser import trained_parameters
from heads.training.schedule import Schedule
from heads.training.state import STATE, Progress, save_state
from proxyclip.evaluation.distributed import Ranks


@dataclass(frozen=True)
class Pace:
    """What happens when. batch: images per batch of one process. accumulation: such batches per iteration.
    evaluate_every, save_every, log_every: in iterations; evaluate_every 0: only at the end."""

    batch: int = 4
    accumulation: int = 1
    evaluate_every: int = 0
    save_every: int = 500
    log_every: int = 50


@dataclass
class Training:
    """Everything that `heads.training.loop.train` needs except the data.

    head: on its device. clip_norm: largest norm of all gradients together, 0 for no limit. seed: of dropout. choose:
    the score that the best checkpoint is chosen by. folder: for all files. settings, clip: see `save_state`. facts:
    what checkpoints say about the run. log: of the first rank.
    """

    head: TrainableHead
    objective: Objective
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    pace: Pace
    clip_norm: float
    seed: int
    choose: str
    folder: Path
    settings: dict
    facts: dict
    clip: str
    progress: Progress = field(default_factory=Progress)
    ranks: Ranks = Ranks()
    log: TrainingLog | None = None

    def __post_init__(self):
        self.parameters = trained_parameters(self.head)
        self.images = self.pace.batch * self.pace.accumulation * self.ranks.world  # per iteration, of all ranks
        self.started = time.monotonic() - self.progress.seconds
        self.loss = math.nan  # of the last iteration
        self.model = self.head
        if self.ranks.world > 1:
            gpus = [self.head.device] if self.head.device.type == "cuda" else None
            parallel = torch.nn.parallel.DistributedDataParallel
            self.ranks.meet()  # one of them may have waited for a download of weights
            self.model = parallel(self.head, gpus, gradient_as_bucket_view=True)

    def done(self) -> float:
        """The share of the run that is over, the same on all ranks."""
        self.progress.seconds = self.ranks.from_first(time.monotonic() - self.started)
        return self.schedule.done(self.progress.iteration, self.progress.seconds)

    def due(self, every: int) -> bool:
        """Whether something that happens every so many iterations happens after the last one."""
        return every > 0 and self.progress.iteration > 0 and self.progress.iteration % every == 0

    def gradients(self) -> dict[str, torch.Tensor]:
        """Name -> gradient of everything that is trained."""
        return {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}

    def save(self) -> None:
        """Writes the last checkpoint, and the state."""
        if self.ranks.first:
            self.save_weights(LAST, {})
            parts = self.optimiser, self.progress, self.settings, self.clip
            save_state(self.folder / STATE, self.head, *parts)

    def save_weights(self, name: str, scores: dict[str, float]) -> None:
        """Writes a checkpoint, with scores if they are known."""
        own = {"iteration": self.progress.iteration} | ({"scores": scores} if scores else {})
        save_checkpoint(self.folder / name, self.head, self.facts | own)
