"""Checkpoints of heads: trained weights, with everything that is needed to use them in the file's own header.

A checkpoint is a .safetensors file with the tensors of `TrainableHead.trained`, a few megabytes where the CLIP is
frozen. All other weights are those of the CLIP that it was trained on, as it was before: the header has its
fingerprint.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Tensor

from heads.clips import clip_fingerprint
from heads.facts import Facts, StoredHead, facts_of, portable_name
from heads.head import TrainableHead
from proxyclip.backbones.checkpoints import fitting, read_checkpoint, some
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError, NotFound
from proxyclip.files import write_whole
from proxyclip.options import check_type

TEXT = "stored_text"  # text embeddings that were read from a file
BEST, LAST = "best.safetensors", "last.safetensors"
KEY = "proxyclip_head"  # of the header


def save_checkpoint(path: str | Path, head: TrainableHead, training: Mapping) -> Path:
    """Writes the trained weights with their facts; training: see `Facts`, ready for JSON.

    Raises InputError if the file cannot be written; an earlier checkpoint of that name is then unchanged.
    """
    from safetensors.torch import save

    header = {KEY: json.dumps(asdict(facts_of(head, training)))}
    data = save({name: value.detach().cpu().contiguous() for name, value in head.trained().items()}, header)
    try:
        return write_whole(path, lambda file: file.write(data))
    except OSError as error:
        raise InputError(
            f"cannot write checkpoint {path} ({error.strerror or error}); an earlier one is unchanged"
        ) from None


def find_checkpoint(path: str | Path) -> Path:
    """The file itself, or of a training run's folder the best checkpoint, else the last; NotFound if there is none."""
    if os.path.isdir(path):
        found = next((file for name in (BEST, LAST) if (file := Path(path) / name).is_file()), None)
        if found is None:
            raise NotFound(f"folder {path} has no checkpoint: neither {BEST} nor {LAST} is there")
        return found
    if not os.path.isfile(path):
        raise NotFound(f"checkpoint {path} does not exist")
    return Path(path)


def read_header(path: Path) -> str | None:
    """What a .safetensors file says about its head; None for another file, or one that says nothing."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read ({error}): damaged, or not a .safetensors file") from None


def read_checkpoint_facts(path: str | Path) -> Facts:
    """The facts of a checkpoint or of a training run's folder, without loading its weights.

    Raises NotFound, and InputError for a file that is damaged or not a checkpoint of a head.
    """
    path = find_checkpoint(path)
    header = read_header(path)
    if header is None:
        raise InputError(f"checkpoint {path} is not one that training here wrote: it does not name a head")
    try:
        found = json.loads(header)
        for name in ("classes", "seen", "known_words", "mean", "std"):
            found[name] = tuple(found[name]) if isinstance(found[name], list) else found[name]
        facts = Facts(**{entry.name: found[entry.name] for entry in fields(Facts)})
        for entry in fields(Facts):
            check_type(entry.name, getattr(facts, entry.name), entry.type)
    except (ValueError, KeyError, TypeError) as error:  # an InputError is a ValueError
        problem = f"its header is damaged ({type(error).__name__}: {error})"
        raise InputError(f"checkpoint {path} cannot be used: {problem}") from None
    if unknown := [name for name in facts.seen if name not in facts.classes]:
        raise InputError(f"checkpoint {path} cannot be used: its seen names {some(unknown)} are not among its classes")
    return facts


class Checkpoint(StoredHead):
    """A checkpoint that training here wrote."""

    def read(self) -> dict[str, Tensor]:
        """Name -> tensor."""
        return read_checkpoint(self.file)

    def peek(self, clip: DenseCLIP) -> dict[str, Tensor]:
        """The same. clip: of shapes alone, which say little about its weights."""
        return self.read()

    def check_clip(self, clip: DenseCLIP, state: dict[str, Tensor]) -> None:
        """InputError unless the weights of the CLIP are those that the head was trained on."""
        found, facts = clip_fingerprint(clip), self.facts
        if found != facts.clip_fingerprint:
            raise InputError(
                f"checkpoint {self.file} was trained on another CLIP: {facts.clip} with fingerprint "
                f"{facts.clip_fingerprint}, but {portable_name(clip.name)} has {found}"
            )

    def weights(self, state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
        """The trained weights of a state. own: their names in the head."""
        return state


def load_weights(head: TrainableHead, checkpoint: StoredHead) -> None:
    """Loads the trained weights of a checkpoint into a head on the same CLIP.

    Names and numbers of classes may differ: no weight depends on them; and the head keeps its own text embeddings.
    Raises InputError, and leaves the head as it is, if the checkpoint is of another head or CLIP, or if weights are
    missing, unexpected or not finite.
    """
    kind = type(head).__module__.rpartition(".")[2]
    if checkpoint.facts.head != kind:
        raise InputError(f"checkpoint {checkpoint.file} is of head {checkpoint.facts.head}, not {kind}")
    state = checkpoint.read()
    checkpoint.check_clip(head.clip, state)
    check_normalisation(head, checkpoint)
    put(head, checkpoint.weights(state, set(head.trained())), checkpoint.file)


def check_normalisation(head: TrainableHead, checkpoint: StoredHead) -> None:
    """InputError unless the head normalises images as it did in training."""
    facts, own = checkpoint.facts, head.normalise
    if (facts.mean, facts.std) != (own.mean, own.std):
        raise InputError(
            f"checkpoint {checkpoint.file} was trained with another normalisation: {facts.mean}, {facts.std}"
        )


def put(head: TrainableHead, trained: dict[str, Tensor], file: Path, with_text: bool = False) -> None:
    """Copies trained weights into a head, strictly. with_text: its text embeddings as well, else it keeps its own."""
    head.load_state_dict(matching(head, trained, file, with_text), strict=False)


def matching(head: TrainableHead, trained: dict[str, Tensor], file: Path, with_text: bool) -> dict[str, Tensor]:
    """The tensors that `put` copies. Raises InputError unless they are those of this head, no more and no less."""
    if not with_text:
        trained = {name: value for name, value in trained.items() if name != TEXT}
    elif TEXT in trained:
        head.stored_text = torch.empty(len(head.classes), *trained[TEXT].shape[1:])  # (K, E) or (K, P, E)
    return fitting(head, trained, f"checkpoint {file}", keep=head.frozen() if with_text else (*head.frozen(), TEXT))
