"""Published checkpoints of ZegCLIP, OTSeg and Cascade-CLIP: files with the weights of a whole model, CLIP included."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from heads.facts import StoredHead
from heads.official import from_official, is_official
from heads.official_facts import official_facts
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.weights import read_whole, some, unwrap
from proxyclip.errors import InputError

TOLERANCE = 1e-3  # relative to a tensor's norm: the rounding of float16 is below 5e-4
POSITIONS = "visual.positional_embedding"


class OfficialCheckpoint(StoredHead):
    """A published checkpoint; its methods are those of `heads.checkpoint.Checkpoint`."""

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
        _, held = from_official(state, set())
        own = {name: value for name, value in clip.model.state_dict().items() if name != "logit_scale"}
        if not any(name.startswith("transformer.") for name in held):  # its text embeddings came from a file
            own = {name: value for name, value in own.items() if name.startswith("visual.")}
        source = f"checkpoint {self.file}"
        for problem, names in (("lacks", own.keys() - held.keys()), ("has unknown", held.keys() - own.keys())):
            if names:
                raise InputError(f"{source} holds another CLIP than {clip.name}: it {problem} {some(sorted(names))}")
        patches = len(held[POSITIONS]) - 1
        if math.isqrt(patches) ** 2 == patches:
            own[POSITIONS] = resized(own[POSITIONS], clip.visual.grid_size, math.isqrt(patches))
        wrong = [name for name, value in own.items() if differ(held[name], value)]
        if wrong:
            raise InputError(f"{source} holds another CLIP than {clip.name}: {some(sorted(wrong))} differ")

    def weights(self, state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
        """The trained weights of a state. own: their names in the head."""
        return from_official(state, own)[0]


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
    """A published checkpoint with its facts, without its weights; the arguments are those of `official_facts`."""
    whole, source = read_whole(file, place="meta"), f"checkpoint {file}"
    state = unwrap(whole, file)
    if not is_official(state):
        raise InputError(f"{source} is of no known kind: neither written by training here nor by a published codebase")
    meta = whole.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    stored = names if isinstance(names, (tuple, list)) else None
    return OfficialCheckpoint(file, official_facts(state, stored, source, head, classes, seen, assumed, training))
