"""From a checkpoint to a head that is ready to use: all input is checked before any weights are loaded."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from heads import find_head
from heads.checkpoint import (
    Checkpoint,
    check_normalisation,
    check_same_names,
    find_checkpoint,
    matching,
    put,
    read_header,
    read_metadata,
)
from heads.clips import bare_clip, find_clip, load_clip, recorded_clip
from heads.head import Options, TrainableHead, plain_options, read_text_embeddings
from heads.published import PublishedCheckpoint, open_published
from proxyclip.backbones import build_clip
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.precision import resolve_device, resolve_precision
from proxyclip.errors import InputError, NotFound
from proxyclip.options import check_type, make_options
from proxyclip.refine import Choice, read_refinement
from proxyclip.text import check_templates
from proxyclip.vocabulary import list_of_names


@dataclass(frozen=True)
class Plan:
    """A head that is checked as far as possible without loading weights; see `load`.

    options: as they are recorded. text_file: to read text embeddings from; without one, options.text_embeddings is the
    name of those that the checkpoint holds.
    """

    head: ModuleType
    options: Options
    checkpoint: Checkpoint | PublishedCheckpoint
    clip: str
    clip_file: str | None
    text_file: str | None
    device: torch.device
    dtype: torch.dtype
    refine: Choice | None = None

    def build(self) -> TrainableHead:
        state, clip, known_words = self.checkpoint.read(), None, None
        if self.clip_file is None and self.clip == self.checkpoint.metadata.clip:
            clip = self.checkpoint.own_clip(state)
        if clip is None:
            clip, known_words = load_clip(self.clip, self.clip_file)
        self.checkpoint.check_clip(clip, state)
        head = self.empty(clip, self.checkpoint.metadata.known_words or known_words)
        check_normalisation(head, self.checkpoint)
        put(head, *self.trained(state))
        head.options = self.options
        head.refinement = self.refine and self.refine.build()
        head.clip.requires_grad_(False)  # so that text embeddings are cached
        return head.set_precision(self.dtype).to(self.device).eval()

    def check_shapes(self) -> None:
        """InputError unless the weights in the checkpoint are those of the head on this CLIP, by names and shapes."""
        clip = bare_clip(self.clip)
        state = self.checkpoint.peek(clip)
        with torch.device("meta"):
            head = self.empty(clip)
        check_normalisation(head, self.checkpoint)
        matching(head, *self.trained(state))

    def empty(self, clip: DenseCLIP, known_words: tuple[str, ...] | None = None) -> TrainableHead:
        """The head, before its weights are loaded."""
        options = replace(self.options, text_embeddings=self.text_file)
        return self.head.Head(
            clip, options, self.checkpoint.metadata.classes, self.checkpoint.metadata.seen, known_words
        )

    def trained(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Path, bool]:
        """The arguments of `put` besides the head."""
        with_text = self.options.text_embeddings != self.text_file
        return self.checkpoint.weights(state), self.checkpoint.file, with_text


def load(checkpoint: str | Path, **choices) -> TrainableHead:
    """Loads a trained head.

    checkpoint: the folder of a training run (its best checkpoint, else its last), a file in it, or a published
    checkpoint of ZegCLIP, OTSeg, Cascade-CLIP or CAT-Seg. clip: the CLIP that it was trained on, where its name in the
    checkpoint means nothing here. checkpoint_clip: a file with the weights of that CLIP, instead of a download. device:
    "cpu", "cuda", "mps" or "auto". precision: "fp32", "bf16", "fp16" or "auto", which is fp32 on a CPU and bf16 or fp16
    on an accelerator. refine: see `proxyclip.refine`.

    A published checkpoint does not say everything. classes: the names of its training set, in its order. seen: those
    that training had labels of. head: "zegclip" or "otseg", which the weights do not tell. Its options can be set as
    well where they differ from the published ones: decoder_heads, levels, finetune, ... For other checkpoints, and for
    CAT-Seg, classes, seen and head are optional, and have to agree.

    All other arguments are options of the head that may change after training: short_side, crop, stride, seen_penalty,
    templates, text_embeddings.

    Raises InputError for invalid values, another CLIP than that of the training, and weights that do not fit, and
    NotFound for files that do not exist.
    """
    return plan(checkpoint, **choices).build()


def plan(
    checkpoint: str | Path,
    *,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    seen: Sequence[str] | None = None,
    assumed: Mapping | None = None,
    training: Mapping | None = None,
    benchmark: Sequence[str] | None = None,
    clip: str | None = None,
    checkpoint_clip: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    refine: str | None = None,
    **options,
) -> Plan:
    """The head that `load` would load, with the same errors, but without loading weights.

    assumed, training: of a published checkpoint, the options that its training is known to have had, and metadata to
    record. benchmark: all classes that the head is going to be evaluated on. If they are not those of the training,
    nothing is subtracted from seen classes unless seen_penalty is set, as in the published cross-dataset runs.
    """
    check_type("checkpoint", checkpoint, str | Path)
    check_type("clip", clip, str | None)
    check_type("checkpoint_clip", checkpoint_clip, str | Path | None)
    if checkpoint_clip is not None and not os.path.isfile(checkpoint_clip):
        raise NotFound(f"checkpoint {checkpoint_clip} does not exist")
    given = {name: value for name, value in options.items() if value is not None}
    if "templates" in given:
        given["templates"] = check_templates(given["templates"])
    opened = open_checkpoint(checkpoint, head, classes, seen, assumed, training, given)
    metadata, file = opened.metadata, opened.file
    text_file = given.get("text_embeddings")
    if text_file is None and isinstance(opened, PublishedCheckpoint):
        text_file = metadata.options.get("text_embeddings")  # assumed: the file of weights holds none
    if "templates" in given and text_file is None:
        given["text_embeddings"] = None  # else those in the checkpoint would take their place
    if benchmark is not None and {*benchmark} != {*metadata.classes}:
        given.setdefault("seen_penalty", 0.0)
    module = find_head(metadata.head)
    made = make_options(module.Options, plain_options(metadata.options) | given, f"head {metadata.head}")
    spec = recorded_clip(metadata.clip, checkpoint_clip, f"checkpoint {file}") if clip is None else find_clip(clip)[0]
    if text_file is not None:
        prompts = None if module.Head.AVERAGE_PROMPTS else len(made.templates)
        read_text_embeddings(text_file, metadata.classes, build_clip.embedding_width(spec), prompts)
    place = resolve_device(device)
    files = None if checkpoint_clip is None else str(checkpoint_clip), text_file
    types = place, resolve_precision(precision, place)
    planned = Plan(module, made, opened, spec, *files, *types, read_refinement(refine))
    if clip is None:  # else shapes that differ mean another CLIP, which its fingerprint shows
        planned.check_shapes()
    return planned


def open_checkpoint(
    path: str | Path,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    seen: Sequence[str] | None = None,
    assumed: Mapping | None = None,
    training: Mapping | None = None,
    given: Mapping | None = None,
) -> Checkpoint | PublishedCheckpoint:
    """A checkpoint without its weights. given: options that are set; the others: see `load`, `plan`."""
    given, file = given or {}, find_checkpoint(path)
    classes = None if classes is None else list_of_names(classes, "classes")
    seen = None if seen is None else list_of_names(seen, "seen")
    if read_header(file) is None:
        return open_published(file, head, classes, seen, {**(assumed or {}), **given}, training or {})
    checkpoint = Checkpoint(file, read_metadata(file))
    check_agreement(checkpoint, head, classes, seen, given)
    return checkpoint


def check_agreement(checkpoint: Checkpoint, head, classes, seen, given: Mapping) -> None:
    """InputError if what is given contradicts a checkpoint, or would change what its weights were trained for."""
    metadata, source = checkpoint.metadata, f"checkpoint {checkpoint.file}"
    if head not in (None, metadata.head):
        find_head(head)
        raise InputError(f"{source} is of head {metadata.head}, not {head}")
    for what, names, held in (("classes", classes, metadata.classes), ("seen classes", seen, metadata.seen)):
        if names is not None:
            check_same_names(what, names, held, source)
    changeable = find_head(metadata.head).Head.CHANGEABLE
    for name in given:
        if name in metadata.options and name not in changeable:
            raise InputError(f"{name} is part of the training of {source}: only {', '.join(changeable)} can be set")
