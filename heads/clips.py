"""The CLIPs that heads are trained on: by the names that presets, configurations and checkpoints give them."""

from pathlib import Path

import torch

from proxyclip.backbones import build_clip
from proxyclip.backbones.checkpoints import fingerprint, import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError, NotFound
from proxyclip.loading import embedded, find_preset, preset_names, recorded_name

EMBEDDED = "mini-clip"  # its name in records


def find_clip(name: str) -> tuple[str, tuple[str, ...] | None]:
    """A CLIP as `build_clip.load` takes it, and the names it knows if these are few.

    name: of a preset, for its CLIP; "mini-clip" for the embedded one; or open_clip's names, or a folder.
    """
    if name in (EMBEDDED, *preset_names()):
        preset = embedded() if name == EMBEDDED else find_preset(name)
        return preset.clip, preset.known_words
    build_clip.parse(name)
    return name, embedded().known_words if recorded_name(name) == EMBEDDED else None


def load_clip(name: str, checkpoint: str | Path | None = None) -> tuple[DenseCLIP, tuple[str, ...] | None]:
    """A CLIP under the name it has in records, on the CPU, and the names it knows if these are few; see `find_clip`.

    checkpoint: a file with its weights, instead of a download.
    """
    name, known_words = find_clip(name)
    clip = build_clip.load(name, checkpoint)
    clip.name = recorded_name(clip.name)
    return clip, known_words


def bare_clip(name: str) -> DenseCLIP:
    """A CLIP without weights and tokenizer, for shapes: its tensors are on "meta". name: as `find_clip` returns it."""
    with torch.device("meta"):
        model = import_library("open_clip").CLIP(**build_clip.config_of(name)).requires_grad_(False)
        return DenseCLIP(model, None, *build_clip.normalisation(name), recorded_name(name))


def recorded_clip(name: str, file: str | Path | None, source: str) -> str:
    """The CLIP that a checkpoint names, as `build_clip.load` takes it. file: with its weights, if one was given.

    Folders and files are recorded without their places: NotFound says that they have to be named again. source: the
    checkpoint, for that message.
    """
    architecture, _, weights = name.partition(":")
    try:
        return find_clip(architecture if file is not None and Path(weights).suffix else name)[0]
    except (InputError, NotFound):
        raise NotFound(
            f"{source} was trained on the CLIP {name}, which has no place here: name its folder with clip, or the file "
            "of its weights with checkpoint_clip"
        ) from None


def clip_fingerprint(clip: DenseCLIP) -> str:
    """Of everything that both towers compute with: the weights in float32, numbers of heads, and the activation."""
    weights = {name: value.float() for name, value in clip.model.state_dict().items()}
    for tower, blocks in (("visual", clip.visual.transformer.resblocks), ("text", clip.model.transformer.resblocks)):
        weights[f"{tower} heads"] = torch.tensor(blocks[0].attn.num_heads)
    weights[f"activation {clip.activation}"] = torch.zeros(0)
    return fingerprint(weights)
