"""The activation that a CLIP checkpoint was trained with: its weights fit both QuickGELU and GELU."""

import warnings
from pathlib import Path

from torch import Tensor

from proxyclip.backbones.torchvision_shim import import_library

OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers stored with the weights


def is_openais(state: dict[str, Tensor]) -> bool:
    """Whether a checkpoint is an archive published by OpenAI: only those contain these numbers."""
    return any(name in state for name in OPENAI_EXTRAS)


def uses_quick_gelu(name: str, tag: str) -> bool:
    """The activation of published weights, or of the configuration for unknown weights."""
    open_clip = import_library("open_clip")
    default = open_clip.get_model_config(name).get("quick_gelu", False)
    return tag == "openai" or bool((open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu", default))


def warn_of_assumption(name: str, tag: str, file: str | Path) -> None:
    """Warns which activation is assumed for a file, if its architecture was published with both."""
    tags = ["random", *import_library("open_clip").list_pretrained_tags_by_model(name)]  # "random": the configuration's
    assumed = uses_quick_gelu(name, tag)
    others = [other for other in tags if uses_quick_gelu(name, other) != assumed]
    if not others:
        return
    other = next((tag for tag in others if tag.startswith("laion2b")), others[-1])
    activation, alternative = ("QuickGELU", "GELU") if assumed else ("GELU", "QuickGELU")
    warnings.warn(
        f"{file} does not say which activation it was trained with: assuming {activation}, as in {name}:{tag}. "
        f"To choose, name the weights as well: --clip {name}:{tag} --checkpoint-clip FILE for {activation}, "
        f"--clip {name}:{other} --checkpoint-clip FILE for {alternative}",
        stacklevel=4,
    )
