"""Key names of the published checkpoints of ZegCLIP, OTSeg and Cascade-CLIP.

`backbone.` holds CLIP's image tower and the prompts, `text_encoder.` CLIP's text tower, `decode_head.` the decoder.
ZegCLIP and OTSeg have the same names and shapes.
"""

import re

import torch
from torch import Tensor

PREFIXES = ("backbone.", "decode_head.")
UNUSED = (  # weights that take part in no result
    r"decode_head\.(decoder_1|cascade_decoders\.\d+)\.layers\.\d+\.(self_attn|norm1)\.",
    r"decode_head\.loss_decode\.",
    r"decode_head\.conv_seg\.",
)
RENAMED = (
    (r"backbone\.prompt_proj\.", "encoder.projection."),
    (r"backbone\.prompt_norm\.", "encoder.norm."),
    (r"backbone\.ln_layers\.", "level_norms."),
    (r"backbone\.proj_layers$", "level_projections"),
    (r"decode_head\.q_proj\.", "descriptor.projection."),
    (r"decode_head\.q_projs\.(\d+)\.", r"descriptors.\1.projection."),
    (r"decode_head\.decoder_1\.layers\.", "decoder."),
    (r"decode_head\.cascade_decoders\.(\d+)\.layers\.", r"decoders.\1."),
)
IN_LAYERS = {
    "multihead_attn.q": "attentions.{}.query",
    "multihead_attn.k": "attentions.{}.key",
    "multihead_attn.v": "attentions.{}.value",
    "multihead_attn.proj": "attentions.{}.projection",
    "linear1": "updates.{}.widen",
    "linear2": "updates.{}.narrow",
    "norm2": "updates.{}.norm_attention",
    "norm3": "updates.{}.norm_network",
}
SCORES = ("multihead_attn.q", "multihead_attn.k")  # all that the masks of the last layer depend on
LAYER = re.compile(rf"(decoders?\.(?:\d+\.)?)(\d+)\.({'|'.join(map(re.escape, IN_LAYERS))})\.(weight|bias)$")
FROZEN = {"backbone.": "visual.", "text_encoder.": ""}  # prefix here -> in an open_clip model


def is_official(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of the published codebases."""
    return any(name.startswith(PREFIXES) for name in state)


def from_official(state: dict[str, Tensor], own: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained weights under this project's names, and the frozen CLIP under open_clip's.

    own: all names of the head's trained weights. Weights that take part in no result are left out; names that are not
    known are kept, so that a strict load names them.
    """
    trained, frozen = {}, {}
    prompts = [state[f"backbone.{name}"] for name in ("prompt_embeddings", "deep_prompt_embeddings")
               if f"backbone.{name}" in state]  # fmt: skip
    if prompts:
        trained["encoder.prompts"] = torch.cat(prompts)  # (N, P, D)
    if "decode_head.weights_s1" in state:
        trained["weights"] = torch.stack([state["decode_head.weights_s1"], state["decode_head.weights_s2"]])
    for name, value in state.items():
        taken = ("prompt_embeddings", "deep_prompt_embeddings", "weights_s1", "weights_s2")
        new = None if name.endswith(taken) else renamed(name, own)
        if new is None:
            continue
        prefix = next((prefix for prefix in FROZEN if new.startswith(prefix)), None)
        if prefix is not None:
            frozen[FROZEN[prefix] + new.removeprefix(prefix)] = value
        else:
            trained[new] = value
    return trained, frozen


def renamed(name: str, own: set[str]) -> str | None:
    """This project's name of a published weight; None if it takes part in no result."""
    if any(re.match(pattern, name) for pattern in UNUSED):
        return None
    for pattern, replacement in RENAMED:
        name = re.sub(f"^{pattern}", replacement, name)
    if name.startswith("encoder.norm.") and name not in own:  # the published encoder has it, but norms nothing
        return None
    if not (found := LAYER.match(name)):
        return name
    decoder, layer, part, kind = found.groups()
    place = f"{decoder}{IN_LAYERS[part].format(layer)}.{kind}"
    last = sum(known.startswith(f"{decoder}updates.") and known.endswith(".widen.weight") for known in own)
    if int(layer) != last:
        return place
    if part not in SCORES:
        return None
    masks = re.sub(r"attentions\.\d+\.", "masks.", place)  # the last layer of a mask decoder is nothing but scores
    return masks if masks in own else place
