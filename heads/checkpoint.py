"""Checkpoints of heads: trained weights, with everything that is needed to use them in the file's own header.

A checkpoint is a .safetensors file with the tensors of `TrainableHead.trained`, a few megabytes where the CLIP is
frozen. All other weights are those of the CLIP that it was trained on, as it was before: the header has its
fingerprint.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

import proxyclip
from heads import find_head
from heads.clips import clip_fingerprint
from heads.head import TrainableHead, plain_options
from proxyclip.backbones.checkpoints import check_beginning, fitting, read_checkpoint, some
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError, NotFound
from proxyclip.files import write_whole
from proxyclip.loading import recorded_name
from proxyclip.options import check_type

TEXT = "stored_text"  # text embeddings that were read from a file
BEST, LAST = "best.safetensors", "last.safetensors"
KEY = "proxyclip_head"  # of the header


@dataclass(frozen=True)
class CheckpointMetadata:
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
    metadata: CheckpointMetadata

    @property
    def trained(self) -> dict[str, str | None]:
        """How tables tell its scores from others: dataset and setting of the training, and a digest of the file."""
        with open(self.file, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        known = {name: self.metadata.training.get(name) for name in ("dataset", "setting")}
        return known | {"weights": digest.hexdigest()[:6]}

    def own_clip(self, state: dict[str, Tensor]) -> DenseCLIP | None:
        """The CLIP whose weights the file holds; None for a file with those of the head alone."""


def metadata_of(head: TrainableHead, training: Mapping) -> CheckpointMetadata:
    """The metadata of a head in memory."""
    file = head.options.text_embeddings
    return CheckpointMetadata(
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


def check_same_names(what: str, names: Iterable[str], stored: Iterable[str], source: str) -> None:
    """InputError unless both lists of names are the same, in the same order. what: "classes" or "seen classes"."""
    names, stored = tuple(names), tuple(stored)
    if names == stored:
        return
    differences = [
        f"only {where}: {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}"
        for where, missing in (
            ("in the checkpoint", [name for name in stored if name not in names]),
            ("given here", [name for name in names if name not in stored]),
        )
        if missing
    ]
    raise InputError(
        f"{source} was trained with other {what} ({len(stored)}) than those given ({len(names)}): "
        f"{'; '.join(differences) or 'their order differs'}"
    )


def save_checkpoint(path: str | Path, head: TrainableHead, training: Mapping) -> Path:
    """Writes the trained weights with their metadata; training: see `CheckpointMetadata`, ready for JSON.

    Raises InputError if the file cannot be written; an earlier checkpoint of that name is then unchanged.
    """
    from safetensors.torch import save

    header = {KEY: json.dumps(asdict(metadata_of(head, training)))}
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
        checkpoint = next((file for name in (BEST, LAST) if (file := Path(path) / name).is_file()), None)
        if checkpoint is None:
            raise NotFound(f"folder {path} has no checkpoint: neither {BEST} nor {LAST} is there")
        return checkpoint
    if not os.path.isfile(path):
        raise NotFound(f"checkpoint {path} does not exist")
    return Path(path)


def read_header(path: Path) -> str | None:
    """What a .safetensors file says about its head; None for another file, or one that says nothing."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    check_beginning(path)
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read ({error}): damaged, or not a .safetensors file") from None


def read_metadata(path: str | Path) -> CheckpointMetadata:
    """The metadata of a checkpoint or of a training run's folder, without loading its weights.

    Raises NotFound, and InputError for a file that is damaged or not a checkpoint of a head.
    """
    path = find_checkpoint(path)
    header = read_header(path)
    if header is None:
        raise InputError(f"checkpoint {path} is not one that training here wrote: it does not name a head")
    try:
        stored = json.loads(header)
        for name in ("classes", "seen", "known_words", "mean", "std"):
            stored[name] = tuple(stored[name]) if isinstance(stored[name], list) else stored[name]
        metadata = CheckpointMetadata(**{entry.name: stored[entry.name] for entry in fields(CheckpointMetadata)})
        for entry in fields(CheckpointMetadata):
            check_type(entry.name, getattr(metadata, entry.name), entry.type)
    except (ValueError, KeyError, TypeError) as error:  # an InputError is a ValueError
        problem = f"its header is damaged ({type(error).__name__}: {error})"
        raise InputError(f"checkpoint {path} cannot be used: {problem}") from None
    if unknown := [name for name in metadata.seen if name not in metadata.classes]:
        raise InputError(f"checkpoint {path} cannot be used: its seen names {some(unknown)} are not among its classes")
    return metadata


class Checkpoint(StoredHead):
    """A checkpoint that training here wrote."""

    def read(self) -> dict[str, Tensor]:
        """Name -> tensor. InputError unless their shapes are those that the header's options say."""
        state, source = read_checkpoint(self.file), f"checkpoint {self.file}"
        check_options(plain_options(self.metadata.options), sizes_of(self.metadata.head, state, source), source)
        return state

    def peek(self, clip: DenseCLIP) -> dict[str, Tensor]:
        """The same. clip: of shapes alone, which say little about its weights."""
        return self.read()

    def check_clip(self, clip: DenseCLIP, state: dict[str, Tensor]) -> None:
        """InputError unless the weights of the CLIP are those that the head was trained on."""
        fingerprint, metadata = clip_fingerprint(clip), self.metadata
        if fingerprint != metadata.clip_fingerprint:
            raise InputError(
                f"checkpoint {self.file} was trained on another CLIP: {metadata.clip} with fingerprint "
                f"{metadata.clip_fingerprint}, but {portable_name(clip.name)} has {fingerprint}"
            )

    def weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The trained weights of a state."""
        return state


def sizes_of(head: str, weights: Mapping[str, Tensor], source: str) -> dict:
    """The options that the shapes of a head's weights tell; InputError where weights are missing. source: the file."""
    try:
        return find_head(head).Head.sizes(weights)
    except KeyError as error:
        raise InputError(f"{source} lacks {error.args[0]}") from None
    except IndexError:
        raise InputError(f"{source} has weights of another shape than those of {head}") from None


def check_options(options: Mapping, sizes: Mapping, source: str) -> None:
    """InputError where options are not those that the weights of `source` tell."""
    for name, value in sizes.items():
        if options.get(name, value) != value:
            raise InputError(f"{name} is {options[name]}, but {source} was trained with {value}")


def load_weights(head: TrainableHead, checkpoint: StoredHead) -> None:
    """Loads the trained weights of a checkpoint into a head on the same CLIP.

    Names and numbers of classes may differ: no weight depends on them; and the head keeps its own text embeddings.
    Raises InputError, and leaves the head as it is, if the checkpoint is of another head or CLIP, or if weights are
    missing, unexpected or not finite.
    """
    kind = type(head).__module__.rpartition(".")[2]
    if checkpoint.metadata.head != kind:
        raise InputError(f"checkpoint {checkpoint.file} is of head {checkpoint.metadata.head}, not {kind}")
    state = checkpoint.read()
    checkpoint.check_clip(head.clip, state)
    check_normalisation(head, checkpoint)
    put(head, checkpoint.weights(state), checkpoint.file)


def check_normalisation(head: TrainableHead, checkpoint: StoredHead) -> None:
    """InputError unless the head normalises images as it did in training."""
    metadata, own = checkpoint.metadata, head.normalise
    if (metadata.mean, metadata.std) != (own.mean, own.std):
        raise InputError(
            f"checkpoint {checkpoint.file} was trained with another normalisation: {metadata.mean}, {metadata.std}"
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
