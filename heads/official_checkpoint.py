"""Published checkpoints: files with the weights of a whole model, CLIP included."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from heads.facts import StoredHead
from heads.fine_tuning import fixed_part
from heads.official import from_official, is_official
from heads.official_cat_seg import from_official_cat_seg, is_official_cat_seg
from heads.official_cat_seg_facts import cat_seg_facts
from heads.official_facts import official_facts
from proxyclip.backbones.checkpoints import read_whole, some, unwrap
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError

TOLERANCE = 1e-3  # relative to a tensor's norm: the rounding of float16 is below 5e-4
POSITIONS = "visual.positional_embedding"


class OfficialCheckpoint(StoredHead):
    """A published checkpoint of ZegCLIP, OTSeg or Cascade-CLIP, with a frozen CLIP; its methods are those of
    `heads.checkpoint.Checkpoint`."""

    def read(self) -> dict[str, Tensor]:
        """Name -> tensor, under the published names."""
        return unwrap(read_whole(self.file), self.file)

    def peek(self, clip: DenseCLIP) -> dict[str, Tensor]:
        """Shapes alone; InputError unless those of its CLIP are those of `clip`."""
        state = unwrap(read_whole(self.file, place="meta"), self.file)
        self.check_clip(clip, state)
        return state

    def check_clip(self, clip: DenseCLIP, state: dict[str, Tensor]) -> None:
        """InputError unless the frozen part is this CLIP, within the rounding of float16."""
        held = self.clip_weights(state)
        own = {name: value for name, value in clip.model.state_dict().items() if name != "logit_scale"}
        if not any(name.startswith("transformer.") for name in held):  # its text embeddings came from a file
            own = {name: value for name, value in own.items() if name.startswith("visual.")}
        source = f"checkpoint {self.file}"
        for problem, names in (("lacks", own.keys() - held.keys()), ("has unknown", held.keys() - own.keys())):
            if names:
                raise InputError(f"{source} holds another CLIP than {clip.name}: it {problem} {some(sorted(names))}")
        own[POSITIONS] = self.positions(clip, held[POSITIONS])
        wrong = [name for name, value in own.items() if self.differ(name, held[name], value)]
        if wrong:
            raise InputError(f"{source} holds another CLIP than {clip.name}: {some(sorted(wrong))} differ")

    def differ(self, name: str, held: Tensor, own: Tensor) -> bool:
        """Whether the two tensors of that name differ by more than rounding."""
        return differ(held, own)

    def clip_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """All weights of CLIP, under open_clip's names."""
        return from_official(state, set())[1]

    def positions(self, clip: DenseCLIP, held: Tensor) -> Tensor:
        """The position table that the file has if it is of this CLIP: resized as at the start of the training."""
        patches = len(held) - 1
        table, side = clip.visual.positional_embedding, math.isqrt(patches)
        return resized(table, clip.visual.grid_size, side) if side**2 == patches else table

    def weights(self, state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
        """The trained weights of a state. own: their names in the head."""
        return from_official(state, own)[0]


class OfficialCatSeg(OfficialCheckpoint):
    """A published checkpoint of CAT-Seg, with a CLIP that was partly trained."""

    def differ(self, name: str, held: Tensor, own: Tensor) -> bool:
        """The same, of the part that was not trained."""
        mode = self.facts.options["finetune"]
        return held.shape != own.shape or differ(*(fixed_part(name, value, mode) for value in (held, own)))

    def clip_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return from_official_cat_seg(state, set())[1]

    def positions(self, clip: DenseCLIP, held: Tensor) -> Tensor:
        """CLIP's own table, which is resized for every image."""
        return clip.visual.positional_embedding

    def weights(self, state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
        return from_official_cat_seg(state, own)[0]


def differ(held: Tensor, own: Tensor) -> bool:
    """Whether two tensors differ by more than rounding."""
    if held.shape != own.shape or own.is_meta:
        return held.shape != own.shape
    held, own = held.float(), own.float()
    return not torch.linalg.vector_norm(held - own) <= TOLERANCE * torch.linalg.vector_norm(own)


def resized(table: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """A position table (1 + M * M, D) for side × side patches, as training starts from it: (1 + side * side, D)."""
    image = table[1:].float().T.unflatten(1, grid)[None]  # (1, D, M, M)
    image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)  # (1, D, side, side)
    return torch.cat([table[:1].float(), image[0].flatten(1).T])  # (1 + side * side, D)


def open_official(
    file: Path,
    head: str | None,
    classes: Sequence[str] | None,
    seen: Sequence[str] | None,
    assumed: Mapping,
    training: Mapping,
) -> OfficialCheckpoint:
    """A published checkpoint with its facts, without its weights; the other arguments are those of `official_facts`."""
    whole, source = read_whole(file, place="meta"), f"checkpoint {file}"
    state = unwrap(whole, file)
    if is_official_cat_seg(state):
        return OfficialCatSeg(file, cat_seg_facts(state, source, head, classes, seen, assumed, training))
    if not is_official(state):
        raise InputError(f"{source} is of no known kind: neither written by training here nor by a published codebase")
    meta = whole.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    stored = names if isinstance(names, (tuple, list)) else None
    return OfficialCheckpoint(file, official_facts(state, stored, source, head, classes, seen, assumed, training))
