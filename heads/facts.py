"""What a file with a trained head says about itself."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import proxyclip
from heads.head import TrainableHead
from proxyclip.errors import InputError
from proxyclip.loading import recorded_name


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says about itself.

    head: the name of its file in heads/. options: of the head, as JSON has them. classes, seen: names of the training
    set, and those that training had labels of. clip: the name of the CLIP; clip_fingerprint: of its weights.
    known_words: all names that a CLIP with a small vocabulary was trained on. mean, std: by which images are
    normalised. version: of this package. training: whatever the training loop adds: dataset, setting, iteration, ...
    """

    head: str
    options: dict
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    clip: str
    clip_fingerprint: str
    known_words: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    version: str
    training: dict = field(default_factory=dict)


@dataclass(frozen=True)
class StoredHead:
    """A file with a trained head."""

    file: Path
    facts: Facts

    @property
    def trained(self) -> dict[str, str | None]:
        """How tables tell its scores from others: dataset and setting of the training, and a digest of the file."""
        with open(self.file, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        known = {name: self.facts.training.get(name) for name in ("dataset", "setting")}
        return known | {"weights": digest.hexdigest()[:6]}


def facts_of(head: TrainableHead, training: Mapping) -> Facts:
    """The facts of a head in memory."""
    file = head.options.text_embeddings
    return Facts(
        head=type(head).__module__.rpartition(".")[2],
        options=asdict(head.options) | {"text_embeddings": file and Path(file).name},
        classes=head.classes,
        seen=head.seen,
        clip=portable_name(head.clip.name),
        clip_fingerprint=head.clip_fingerprint,
        known_words=head.known_words,
        mean=head.normalise.mean,
        std=head.normalise.std,
        version=proxyclip.__version__,
        training=dict(training),
    )


def portable_name(name: str) -> str:
    """A CLIP's name without paths of this machine; a folder is named without the folders that hold it."""
    name = recorded_name(name)
    return Path(name).name if os.path.isabs(name) or os.path.isdir(name) else name


def check_same_names(what: str, given: Iterable[str], held: Iterable[str], source: str) -> None:
    """InputError unless both lists of names are the same, in the same order. what: "classes" or "seen classes"."""
    given, held = tuple(given), tuple(held)
    if given == held:
        return
    differences = [
        f"only {where}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for where, names in (
            ("in the checkpoint", [name for name in held if name not in given]),
            ("given here", [name for name in given if name not in held]),
        )
        if names
    ]
    raise InputError(
        f"{source} was trained with other {what} ({len(held)}) than those given ({len(given)}): "
        f"{'; '.join(differences) or 'their order differs'}"
    )
