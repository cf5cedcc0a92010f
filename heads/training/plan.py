"""A head that is to be trained: all input is checked before any weights are loaded."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from heads import find_head
from heads.build import empty_head, open_checkpoint
from heads.checkpoint import StoredHead, find_checkpoint, matching, read_header
from heads.clips import bare_clip, find_clip, load_clip
from heads.head import TrainableHead
from proxyclip.backbones.precision import resolve_device, resolve_precision
from proxyclip.errors import InputError, NotFound
from proxyclip.loading import Plan
from proxyclip.options import make_options


def make_new(plan: Plan, seed: int = 0) -> TrainableHead:
    """A head with random weights that depend on the seed alone."""
    clip, known_words = load_clip(plan.clip, plan.checkpoint_clip)
    torch.manual_seed(seed)
    return plan.module.Head(clip, plan.options, plan.classes, plan.seen, known_words)


def skeleton(plan: Plan) -> TrainableHead:
    """The head without storage for its weights. InputError for options that do not fit the CLIP."""
    return empty_head(plan, bare_clip(find_clip(plan.clip)[0]))


def plan_head(
    head: str,
    options: Mapping[str, object],
    clip: str,
    classes: tuple[str, ...],
    seen: tuple[str, ...],
    device: str = "auto",
    precision: str = "auto",
    checkpoint_clip: Path | None = None,
) -> Plan:
    """A head to train, whose `build` takes a seed.

    head: the name of a file in heads/. options: those of its options that differ from its defaults. clip: a name, a
    folder, or "mini" for the embedded one; checkpoint_clip: a file with its weights, instead of a download. precision:
    "fp32", "bf16" or "auto", which is bf16 where the hardware supports it, except on a CPU.

    Raises InputError and NotFound for invalid values, and for options that do not fit the CLIP.
    """
    module = find_head(head)
    checked = make_options(module.Options, options, f"head {head}")
    find_clip(clip)
    if checkpoint_clip is not None and not checkpoint_clip.is_file():
        raise NotFound(f"checkpoint {checkpoint_clip} does not exist")
    device = resolve_device(device)
    planned = Plan(
        module=module,
        options=checked,
        make=make_new,
        clip=clip,
        checkpoint_clip=checkpoint_clip,
        classes=classes,
        seen=seen,
        device=device,
        dtype=training_precision(precision, device),
    )
    skeleton(planned)
    return planned


def training_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of the predictions of a training step; weights and losses are in float32."""
    dtype = resolve_precision(precision, device)
    if dtype != torch.float16:
        return dtype
    if precision == "auto":
        return torch.float32
    raise InputError("fp16 is for inference: its gradients overflow; train in bf16 or fp32")


def open_start(path: Path, planned: Plan, setting: str) -> StoredHead:
    """A checkpoint for a run to start from.

    Raises NotFound, and InputError unless it is of the same head, with weights of the same shapes, and, if some classes
    are to be unseen, trained with the same classes and with labels of the seen ones only.
    """
    names = {"classes": planned.classes, "seen": planned.seen}
    published = read_header(find_checkpoint(path)) is None  # such a file does not say which classes it was trained on
    assumed = asdict(planned.options)
    found = open_checkpoint(path, planned.name, **(names if published or setting != "fully" else {}), assumed=assumed)
    head = skeleton(planned)
    matching(head, found.weights(found.peek(head.clip)), found.file, with_text=False)
    return found
