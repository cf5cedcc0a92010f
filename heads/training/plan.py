"""A head that is to be trained: all input is checked before any weights are loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch

from heads import find_head
from heads.build import open_checkpoint
from heads.checkpoint import StoredHead, find_checkpoint, matching, read_header
from heads.clips import bare_clip, find_clip, load_clip
from heads.head import Options, TrainableHead
from proxyclip.backbones.precision import resolve_device, resolve_precision
from proxyclip.errors import InputError, NotFound
from proxyclip.options import make_options


@dataclass(frozen=True)
class HeadPlan:
    """A head that is checked as far as possible without loading weights; see `plan_head`."""

    head: ModuleType
    options: Options
    clip: str
    checkpoint_clip: Path | None
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return self.head.__name__.rpartition(".")[2]

    def build(self, seed: int) -> TrainableHead:
        """The head with random weights that depend on the seed alone, on its device."""
        clip, known_words = load_clip(self.clip, self.checkpoint_clip)
        torch.manual_seed(seed)
        head = self.head.Head(clip, self.options, self.classes, self.seen, known_words)
        return head.set_precision(self.dtype).to(self.device)

    def skeleton(self) -> TrainableHead:
        """The head without storage for its weights, so within a fraction of a second. InputError for options that do
        not fit the CLIP."""
        clip = bare_clip(find_clip(self.clip)[0])
        with torch.device("meta"):
            return self.head.Head(clip, self.options, self.classes, self.seen)


def plan_head(
    head: str,
    options: Mapping[str, object],
    clip: str,
    classes: tuple[str, ...],
    seen: tuple[str, ...],
    device: str = "auto",
    precision: str = "auto",
    checkpoint_clip: Path | None = None,
) -> HeadPlan:
    """head: the name of a file in heads/. options: those of its options that differ from its defaults. clip: a name, a
    folder, or "mini" for the embedded one; checkpoint_clip: a file with its weights, instead of a download. precision:
    "fp32", "bf16" or "auto", which is bf16 where the hardware supports it, except on a CPU.

    Raises InputError and NotFound for invalid values, and for options that do not fit the CLIP.
    """
    found = find_head(head)
    chosen = make_options(found.Options, options, f"head {head}")
    find_clip(clip)
    if checkpoint_clip is not None and not checkpoint_clip.is_file():
        raise NotFound(f"checkpoint {checkpoint_clip} does not exist")
    place = resolve_device(device)
    dtype = training_precision(precision, place)
    planned = HeadPlan(found, chosen, clip, checkpoint_clip, classes, seen, place, dtype)
    planned.skeleton()
    return planned


def training_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type of the predictions of a training step; weights and losses are in float32."""
    dtype = resolve_precision(precision, device)
    if dtype != torch.float16:
        return dtype
    if precision == "auto":
        return torch.float32
    raise InputError("fp16 is for inference: its gradients overflow; train in bf16 or fp32")


def open_start(path: Path, planned: HeadPlan, setting: str) -> StoredHead:
    """A checkpoint for a run to start from.

    Raises NotFound, and InputError unless it is of the same head, with weights of the same shapes, and, if some classes
    are to be unseen, trained with the same classes and with labels of the seen ones only.
    """
    names = {"classes": planned.classes, "seen": planned.seen}
    published = read_header(find_checkpoint(path)) is None  # such a file does not say which classes it was trained on
    assumed = asdict(planned.options)
    found = open_checkpoint(path, planned.name, **(names if published or setting != "fully" else {}), assumed=assumed)
    head = planned.skeleton()
    matching(head, found.weights(found.peek(head.clip)), found.file, with_text=False)
    return found
