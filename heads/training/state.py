"""The state of a training run on disk, from which it goes on as if it had never stopped.

One file holds all of it, so a run that is killed at any moment leaves a state that fits together. It has no state of
random number generators: those of an iteration are seeded with the seed, the iteration and the rank alone.

On a CPU, with as many threads, a resumed run has exactly the losses of an unbroken one. On a GPU some sums have no
fixed order, and the last digits differ from run to run.
"""

import io
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from heads.head import TrainableHead
from proxyclip.backbones.checkpoints import load_strict, read_whole
from proxyclip.backbones.layers import cpu_linear
from proxyclip.errors import InputError
from proxyclip.files import write_whole

STATE = "state.pt"


@dataclass
class Progress:
    """How far a run is.

    iteration: how many are done. seconds: since the start, pauses between sessions left out. evaluated: the last
    iteration that was evaluated. best: the best score so far. sums, count: what the log will average over the
    iterations since its last line. linear: the library that computes linear layers on a CPU. finished: whether nothing
    is left to do.
    """

    iteration: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    best: float | None = None
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    linear: str = ""
    finished: bool = False


def save_state(path: Path, head: TrainableHead, optimiser, progress: Progress, settings: dict, clip: str) -> None:
    """Writes everything that `load_state` needs.

    settings: what must be the same when the run goes on, plain values. clip: the fingerprint of the head's CLIP. Raises
    InputError if the file cannot be written; the earlier one is then unchanged.
    """
    state = {
        "settings": settings,
        "clip": clip,
        "weights": head.trained(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(progress),
    }
    data = io.BytesIO()  # first to memory: torch.save hides what the file system says
    torch.save(state, data)
    try:
        write_whole(path, lambda file: file.write(data.getbuffer()))
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); the state before is unchanged: fix this, then rerun "
            "with --resume"
        ) from None


def read_state(path: Path) -> dict:
    """The contents of a state file; InputError if it is damaged or something else."""
    state = read_whole(path)
    try:
        Progress(**state["progress"])
        state["settings"].items(), state["weights"].items(), state["optimiser"].items(), state["clip"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not the state of a training run") from None
    return state


def check_settings(path: Path, state: dict, settings: dict) -> None:
    """InputError that names the first setting in which a run differs from the one it is to continue."""
    stored = state["settings"]
    for name in [*stored, *(settings.keys() - stored.keys())]:
        if stored.get(name) != settings.get(name):
            raise InputError(
                f"{path.parent} holds a run with {name} {brief(stored.get(name))}, not {brief(settings.get(name))}: "
                "continue it with its own settings, or choose another --workdir"
            )


def brief(value) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def load_state(path: Path, state: dict, head: TrainableHead, optimiser, clip: str) -> Progress:
    """Sets weights and optimiser to a state; returns the progress. InputError if the head or its CLIP are others."""
    if state["clip"] != clip:
        raise InputError(f"{path} is of a run on another CLIP than {head.clip.name}: it cannot be continued")
    load_strict(head, state["weights"], str(path), keep=head.frozen())
    try:
        optimiser.load_state_dict(state["optimiser"])
    except ValueError as error:
        raise InputError(f"{path} does not fit this head: {error}") from None
    progress = Progress(**state["progress"])
    if progress.linear != cpu_linear():
        raise InputError(f"{path} was computed with PROXYCLIP_CPU_LINEAR={progress.linear}: set it to continue")
    return progress
