"""What the scores of a run depend on, and how it differs from the benchmark's standard protocol.

The standard protocol of a benchmark is its configuration and the preset, as in their files. The protocol of a method's
published runs can take its place.
"""

import hashlib
import platform
from dataclasses import asdict
from pathlib import Path

from configs.load import find_config
from configs.overrides import Overrides

FILES = ("checkpoint_clip", "checkpoint_vfm")


def protocol_of(config_name: str, config, model, samples, limit: int | None, published: bool = False) -> dict:
    """Everything that scores depend on. A run can only be resumed, or compared with another, if all of it agrees."""
    import numpy
    import PIL
    import torch

    import proxyclip
    from proxyclip.backbones.checkpoints import fingerprint

    settings = model.settings()
    return {
        "config": find_config(config_name).stem,
        **config.protocol(),
        **settings,
        **({"compiled": True} if model.compiled else {}),
        "templates_hash": digest(getattr(model, "templates", ())),
        "weights": fingerprint(model.state_dict()),
        "images_hash": digest(item.stem for item in samples.items),
        **({"name": "published"} if published else {}),
        "limit": limit if limit and limit < len(samples.items) else None,
        "average": "mIoU mmseg, mIoU_present detectron2",
        "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
        "versions": f"proxyclip {proxyclip.__version__}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"Pillow {PIL.__version__}, Python {platform.python_version()}",
    }


def changes(
    overrides: Overrides,
    used,
    standard,
    limit: int | None,
    weights: str = "",
    refinement: str = "none",
    expected_refinement: str = "none",
) -> dict:
    """Field -> value of everything in which a run differs from its protocol; {} for one that follows it.

    used, standard: the model's `Plan` for this run, and for the benchmark and the preset or checkpoint alone. Another
    CLIP or VFM is not a change, because tables name both. weights: their fingerprint, to distinguish files of one name.
    refinement, expected_refinement: the titles of that of the run and that of the protocol.
    """
    found = {}
    for name in ("split", "background", "threshold"):
        if (value := getattr(overrides.config, name)) != getattr(overrides.standard, name):
            found[name] = value
    if overrides.config.queries != overrides.standard.queries and overrides.words:
        found["words"] = f"{Path(overrides.words).name} {digest(overrides.config.queries)[:6]}"
    expected = asdict(standard.options)
    for name, value in asdict(used.options).items():
        if value != expected[name]:
            found[name] = list(value) if isinstance(value, tuple) else value
    if used.checkpoint is None:  # the CLIP of a head is compared with that of its training
        found |= {name: file for name in FILES if (file := getattr(used, name)) is not None}
    for name, file in found.items():
        if name in (*FILES, "text_embeddings") and file is not None:
            found[name] = f"{Path(file).name} {weights[:6]}".strip()
    for name in ("vfm_features", "vfm_layer", "backend"):
        if (value := getattr(used, name)) != getattr(standard, name):
            found[name] = value
    if used.dtype != standard.dtype:
        found["precision"] = str(used.dtype).removeprefix("torch.")
    if refinement != expected_refinement:
        found["refine"] = refinement
    if limit is not None:
        found["limit"] = limit
    return found


def unseen_classes(data, facts=None) -> dict[str, tuple[str, ...]]:
    """Name of a split -> the unseen classes that scores are averaged over.

    facts: of a head's training, if it is one. Its own unseen classes count, under the dataset's name for them if it has
    one, else as "checkpoint"; on another dataset, none. Where training had all labels, the dataset's splits count.
    """
    if facts is None:
        return data.unseen
    if {*facts.classes} != {*data.classes}:
        return {}
    left_out = tuple(name for name in data.classes if name not in facts.seen)
    if not left_out:
        own = facts.training.get("unseen")
        return {own: data.unseen[own]} if own in data.unseen else data.unseen
    return {name: names for name, names in data.unseen.items() if {*names} == {*left_out}} or {"checkpoint": left_out}


def digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:12]
