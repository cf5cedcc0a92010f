"""What the weights of a published checkpoint of CAT-Seg tell about its head."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from heads.cat_seg_options import Options
from heads.facts import Facts
from heads.official_cat_seg import AGGREGATOR, CLIP, LAYER, PROMPTS
from heads.official_facts import agreed, check_head, check_present, check_seen
from proxyclip.backbones import build_clip
from proxyclip.errors import InputError

EMBED = f"{AGGREGATOR}conv1"
WIDTHS = {  # option -> dimension of the weights that have this width, and their modules: one for each value
    "hidden": (0, EMBED),
    "image_guidance": (0, f"{AGGREGATOR}guidance_projection.0"),
    "text_guidance": (0, f"{AGGREGATOR}text_guidance_projection.0"),
    "guidance_features": (1, "upsample1", "upsample2"),
    "decoder_guidance": (0, *(f"{AGGREGATOR}decoder_guidance_projection.{number}.0" for number in (0, 1))),
    "decoder": (0, *(f"{AGGREGATOR}decoder{number}.conv.double_conv.0" for number in (1, 2))),
}
PATCHES = f"{CLIP}visual.conv1.weight"
NEEDED = (PATCHES, *(f"{module}.weight" for _, *modules in WIDTHS.values() for module in modules))
MASK, PADDING = ".swin_block.block_2.attn_mask", ".attention.padding_tokens"  # endings
BASE = "ViT-B-16:openai", {"clip_size": 384, "guidance_blocks": (3, 7)}  # with patches of 16 pixels
LARGE = "ViT-L-14-336:openai", {"clip_size": 336, "guidance_blocks": (7, 15)}  # with others


def cat_seg_facts(
    state: Mapping[str, Tensor],
    source: str,
    head: str | None,
    classes: Sequence[str] | None,
    seen: Sequence[str] | None,
    assumed: Mapping,
    training: Mapping,
) -> Facts:
    """From weights under their published names, of which only shapes are used.

    The arguments are those of `heads.official_facts.official_facts`. No weight depends on the classes of the training,
    and no file names them: without `classes`, the head has none. Without `seen`, training had labels of all. What the
    weights do not tell is as published unless it is assumed to be different: the CLIP by the size of its patches,
    `finetune` is "attention".
    """
    check_head(head, ("cat_seg",), source)
    check_present(state, NEEDED, source)
    classes = () if classes is None else tuple(classes)
    seen = classes if seen is None else tuple(seen)
    check_seen(classes, seen)
    if not classes and assumed.get("text_embeddings") is not None:
        raise InputError(f"{source} does not say which classes text_embeddings are of: give classes")
    clip, published = BASE if state[PATCHES].shape[-1] == 16 else LARGE
    published = published | {"finetune": Options().finetune}
    mean, std = build_clip.normalisation(clip)
    return Facts(
        head="cat_seg",
        options=published | options_of(state, assumed, source),
        classes=classes,
        seen=seen,
        clip=clip,
        clip_fingerprint="",
        known_words=None,
        mean=mean,
        std=std,
        version="",
        training=dict(training),
    )


def options_of(state: Mapping[str, Tensor], assumed: Mapping, source: str) -> dict:
    """The options of the head: those that the shapes of the weights tell, and those assumed."""
    layers = {match[1] for name in state if (match := LAYER.fullmatch(name))}
    found = {"guidance": "clip", "layers": len(layers), "prompts": 0}
    for option, (dimension, *modules) in WIDTHS.items():
        widths = tuple(state[f"{module}.weight"].shape[dimension] for module in modules)
        found[option] = widths if len(widths) > 1 else widths[0]
    if PROMPTS in state:
        found |= {"prompts": state[PROMPTS].shape[1], "finetune": "prompt"}
    if not any(name.endswith(PADDING) for name in state):
        found["pad_len"] = 0
    if mask := next((name for name in state if name.endswith(MASK)), None):
        windows, places, _ = state[mask].shape
        found["window"] = math.isqrt(places)
        found["clip_size"] = math.isqrt(windows) * found["window"] * state[PATCHES].shape[-1]
    templates, count = assumed.get("templates", Options().templates), state[f"{EMBED}.weight"].shape[1]
    if len(templates) != count:
        raise InputError(f"{source} was trained with {count} templates, not {len(templates)}: give templates")
    return agreed(found, assumed, source)
