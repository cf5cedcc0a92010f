"""Key names of the published checkpoints of CAT-Seg.

`sem_seg_head.predictor.clip_model.` holds CLIP, whose projections of queries, keys and values are apart,
`sem_seg_head.predictor.transformer.` the aggregation, `upsample1.` and `upsample2.` the lifts of CLIP's middle blocks.
"""

import re

import torch
from torch import Tensor

CLIP, AGGREGATOR = "sem_seg_head.predictor.clip_model.", "sem_seg_head.predictor.transformer."
UNUSED = (f"{CLIP}logit_scale", ".attn_mask")  # endings: a part of no result, and what follows from the windows
PROMPTS = f"{CLIP}visual.transformer.prompt_tokens"
TUNED = "clip.model."  # of the head, before open_clip's names
SEPARATE = re.compile(r"(.+\.attn\.)[qkv]_proj_weight")
IN_BLOCKS = {
    "norm1": "norm_attention",
    "attn.q": "query",
    "attn.k": "key",
    "attn.v": "value",
    "attn.proj": "projection",
    "norm2": "norm_network",
    "mlp.fc1": "widen",
    "mlp.fc2": "narrow",
}
IN_LAYERS = {
    "swin_block.guidance_norm": "guidance_norm",
    **{f"swin_block.block_1.{part}": f"spatial.0.{own}" for part, own in IN_BLOCKS.items()},
    **{f"swin_block.block_2.{part}": f"spatial.1.{own}" for part, own in IN_BLOCKS.items()},
    "attention.norm1": "classes.norm_attention",
    "attention.attention.q": "classes.query",
    "attention.attention.k": "classes.key",
    "attention.attention.v": "classes.value",
    "attention.norm2": "classes.norm_network",
    "attention.MLP.0": "classes.widen",
    "attention.MLP.2": "classes.narrow",
}
PADDING = {"attention.padding_tokens": "classes.padding", "attention.padding_guidance": "classes.padding_guidance"}
IN_DECODERS = {
    "up": "lift",
    "conv.double_conv.0": "first",
    "conv.double_conv.1": "first_norm",
    "conv.double_conv.3": "second",
    "conv.double_conv.4": "second_norm",
}
MODULES = {  # whole names of modules
    "upsample1": "guidance_lifts.0",
    "upsample2": "guidance_lifts.1",
    f"{AGGREGATOR}conv1": "aggregator.embed",
    f"{AGGREGATOR}guidance_projection.0": "aggregator.image_guidance",
    f"{AGGREGATOR}text_guidance_projection.0": "aggregator.text_guidance",
    f"{AGGREGATOR}decoder_guidance_projection.0.0": "aggregator.decoder_guidance.0",
    f"{AGGREGATOR}decoder_guidance_projection.1.0": "aggregator.decoder_guidance.1",
    **{f"{AGGREGATOR}decoder1.{part}": f"aggregator.upsampling.0.{own}" for part, own in IN_DECODERS.items()},
    **{f"{AGGREGATOR}decoder2.{part}": f"aggregator.upsampling.1.{own}" for part, own in IN_DECODERS.items()},
    f"{AGGREGATOR}head": "aggregator.score",
}
LAYER = re.compile(rf"{re.escape(AGGREGATOR)}layers\.(\d+)\.(.+)")


def is_official_cat_seg(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of the published codebase."""
    return any(name.startswith((CLIP, AGGREGATOR)) for name in state)


def from_official_cat_seg(state: dict[str, Tensor], own: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained weights under this project's names, and the frozen weights of CLIP under open_clip's.

    own: all names of the head's trained weights, which tell what of CLIP is trained. Names that are not known are kept,
    so that a strict load names them.
    """
    trained, frozen = {}, {}
    for name, value in joined(state).items():
        if name.endswith(UNUSED):
            continue
        if name == PROMPTS:
            trained["prompts"] = value  # (N, P, D)
        elif not name.startswith(CLIP):
            trained[renamed(name)] = value
        elif TUNED + name.removeprefix(CLIP) in own:
            trained[TUNED + name.removeprefix(CLIP)] = value
        else:
            frozen[name.removeprefix(CLIP)] = value
    return trained, frozen


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with the projections of queries, keys and values in one, where all three are there."""
    found = {}
    for name, value in state.items():
        match = SEPARATE.fullmatch(name)
        parts = [f"{match[1]}{part}_proj_weight" for part in "qkv"] if match else []
        if not parts or not all(part in state for part in parts):
            found[name] = value
        elif name == parts[0]:
            found[f"{match[1]}in_proj_weight"] = torch.cat([state[part] for part in parts])  # (3 D, D)
    return found


def renamed(name: str) -> str:
    """This project's name of a published weight outside CLIP; the same if it is not known."""
    if match := LAYER.fullmatch(name):
        number, rest = match.groups()
        module, _, kind = rest.rpartition(".")
        if rest in PADDING:
            return f"aggregator.layers.{number}.{PADDING[rest]}"
        return f"aggregator.layers.{number}.{IN_LAYERS[module]}.{kind}" if module in IN_LAYERS else name
    module, _, kind = name.rpartition(".")
    return f"{MODULES[module]}.{kind}" if module in MODULES else name
