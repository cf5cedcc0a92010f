"""From a plan to a run: at its start, from the weights of another run, or where it was when its state was saved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from heads.checkpoint import StoredHead, load_weights
from heads.head import TrainableHead
from heads.training.log import TrainingLog
from heads.training.objective import Objective
from heads.training.optimiser import make_optimiser
from heads.training.plan import HeadPlan
from heads.training.run import Pace, Training
from heads.training.schedule import Schedule
from heads.training.state import STATE, Progress, check_settings, load_state, read_state
from proxyclip.backbones.layers import cpu_linear
from proxyclip.evaluation.distributed import Ranks
from proxyclip.vocabulary import Vocabulary


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; fields as in `configs.training.TrainConfig`.

    known: the classes that labels count. left_out: the unseen classes.
    """

    setting: Literal["inductive", "transductive", "fully"]
    known: tuple[str, ...]
    left_out: tuple[str, ...]
    rate: float = 2e-4
    rate_factors: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    decay_norms: bool = True
    clip_norm: float = 0.0
    loss: Literal["mask", "cross_entropy"] = "mask"
    mask_weight: float = 100.0
    dice_weight: float = 1.0
    void: Literal["negative", "masked"] = "negative"
    checkpointing: bool = False
    seed: int = 0


def begin(
    planned: HeadPlan,
    recipe: Recipe,
    schedule: Schedule,
    pace: Pace,
    folder: Path,
    settings: dict,
    facts: dict,
    ranks: Ranks,
    resume: bool = False,
    start: StoredHead | None = None,
) -> Training:
    """The run, ready for `train`.

    folder: for all files. settings, facts: see `Training`. resume: whether to continue from the state in the folder, if
    there is one; start: else the checkpoint to start from. Raises InputError for a state of another run, and for
    weights that do not fit.
    """
    file = folder / STATE
    state = read_state(file) if ranks.from_first(resume and file.exists()) else None
    if state:
        check_settings(file, state, settings)
    progress = Progress(linear=cpu_linear())
    head = planned.build(recipe.seed)
    head.checkpointing = recipe.checkpointing
    clip = head.clip_fingerprint
    optimiser = make_optimiser(head, recipe.rate, recipe.weight_decay, recipe.rate_factors, recipe.decay_norms)
    if state:
        progress = load_state(file, state, head, optimiser, clip)
    elif start:
        load_weights(head, start)
    else:
        head.load_published()
    objective, choose = objective_of(recipe, head), "mIoU" if recipe.setting == "fully" else "hIoU"
    run = Training(
        *(head, objective, optimiser, schedule, pace, recipe.clip_norm, recipe.seed),
        *(choose, folder, settings, facts, clip, progress, ranks),
    )
    if not state:
        run.save()  # so that a run that is killed before its first save can be continued
    if ranks.first and not progress.finished:
        run.log = TrainingLog(folder, progress.iteration, progress.evaluated)
    return run


def objective_of(recipe: Recipe, head: TrainableHead) -> Objective:
    text = Vocabulary.parse(recipe.known)
    if not head.trains_text:
        with torch.no_grad():
            text = head.encode_classes(text).clone()  # (K, E) or (K, P, E)
    unseen = unseen_indices(recipe, head) if recipe.setting == "transductive" else None
    weights = recipe.mask_weight, recipe.dice_weight
    return Objective(text, unseen, recipe.loss, *weights, recipe.void, head.precision)


def unseen_indices(recipe: Recipe, head: TrainableHead) -> Tensor:
    """(U,) indices of the unseen classes among all."""
    return torch.tensor(sorted(map(recipe.known.index, recipe.left_out)), device=head.device)


def describe(run: Training, images: int) -> str:
    """What is trained on what, and the effective batch, in two lines. images: of the training set."""
    head, trained = run.head, sum(parameter.numel() for parameter in run.parameters.values())
    counts = f"{len(head.seen)} of {len(head.classes)} classes seen, {images} images"
    what = f"{head.method} on {run.facts['dataset']}, {run.facts['setting']}: {counts}, {trained / 1e6:.2f} M weights"
    counts = (run.pace.batch, "image"), (run.ranks.world, "process"), (run.pace.accumulation, "batch")
    parts = " × ".join(
        f"{count} {name}{'' if count == 1 else 's' if name == 'image' else 'es'}" for count, name in counts
    )
    return f"{what}\neffective batch: {parts} = {run.images} images per iteration"
