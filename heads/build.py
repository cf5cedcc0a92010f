"""From a checkpoint to a head that is ready to use: all input is checked before any weights are loaded."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

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
from heads.head import TrainableHead, plain_options, read_text_embeddings
from heads.published import PublishedCheckpoint, open_published
from proxyclip.backbones import build_clip
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.precision import resolve_device, resolve_precision
from proxyclip.errors import InputError, NotFound
from proxyclip.loading import Plan
from proxyclip.options import check_type, make_options
from proxyclip.refine import read_refinement
from proxyclip.text import check_templates
from proxyclip.vocabulary import list_of_names


def make_trained(plan: Plan, text_file: str | None) -> TrainableHead:
    """A head with the weights of its checkpoint. text_file: to read text embeddings from; without one,
    plan.options.text_embeddings is the name of those that the checkpoint holds."""
    checkpoint, clip, known_words = plan.checkpoint, None, None
    state = checkpoint.read()
    if plan.checkpoint_clip is None and plan.clip == checkpoint.metadata.clip:
        clip = checkpoint.own_clip(state)
    if clip is None:
        clip, known_words = load_clip(plan.clip, plan.checkpoint_clip)
    checkpoint.check_clip(clip, state)
    options = replace(plan.options, text_embeddings=text_file)
    known_words = checkpoint.metadata.known_words or known_words
    head = plan.module.Head(clip, options, plan.classes, plan.seen, known_words)
    check_normalisation(head, checkpoint)
    with_text = plan.options.text_embeddings != text_file
    put(head, checkpoint.weights(state), checkpoint.file, with_text)
    head.options = plan.options
    head.clip.requires_grad_(False)  # so that text embeddings are cached
    return head


def check_shapes(plan: Plan, text_file: str | None) -> None:
    """InputError unless the weights in the checkpoint are those of the head on this CLIP, by names and shapes."""
    checkpoint, clip = plan.checkpoint, bare_clip(plan.clip)
    state = checkpoint.peek(clip)
    head = empty_head(replace(plan, options=replace(plan.options, text_embeddings=text_file)), clip)
    check_normalisation(head, checkpoint)
    with_text = plan.options.text_embeddings != text_file
    matching(head, checkpoint.weights(state), checkpoint.file, with_text)


def empty_head(plan: Plan, clip: DenseCLIP) -> TrainableHead:
    """The head without storage for its weights, so within a fraction of a second. clip: without storage, too."""
    with torch.device("meta"):
        return plan.module.Head(clip, plan.options, plan.classes, plan.seen)


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
    device = resolve_device(device)
    planned = Plan(
        module=module,
        options=made,
        make=partial(make_trained, text_file=text_file),
        clip=spec,
        checkpoint_clip=checkpoint_clip and str(checkpoint_clip),
        checkpoint=opened,
        classes=opened.metadata.classes,
        seen=opened.metadata.seen,
        device=device,
        dtype=resolve_precision(precision, device),
        refine=read_refinement(refine),
    )
    if clip is None:  # else shapes that differ mean another CLIP, which its fingerprint shows
        check_shapes(planned, text_file)
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
