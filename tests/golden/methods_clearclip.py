"""Reference cases of ClearCLIP: all types of attention of the published code, the tower, and a whole inference."""

from functools import partial

import torch.nn.functional as F
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare
from torch.nn.functional import scaled_dot_product_attention as attend

from proxyclip.backbones.layers import heads, join, run_network
from proxyclip.methods.sclip import correlative_attention

TYPES = {  # queries, keys and values -> mixed values
    "ClearCLIP": lambda query, key, value: attend(query, query, value),
    "SCLIP": correlative_attention,
    "MaskCLIP": lambda query, key, value: value,
    "vanilla": attend,
}


def counterpart(kind: str, residual: bool, layers: int):
    """The method and its options that such a setting is; None where there is none."""
    if layers == 1 and kind in ("ClearCLIP", "vanilla"):
        pair = {"ClearCLIP": "qq", "vanilla": "qk"}[kind]
        return partial(models.patches, "clearclip", attention=pair, residual=residual)
    known = {("SCLIP", True): "sclip", ("MaskCLIP", False): "maskclip"}
    return partial(models.patches, known[kind, residual]) if (kind, residual) in known else None


def check_attention(case: Case) -> None:
    block, computed = models.attention(case), {}
    query, key, value = heads(block, case.tensors["x"])
    for name in case.settings["hyperparameters"]["settings"]:
        computed[f"{name}.attention_head0"] = models.head0(TYPES[name], query, key)
        computed[f"{name}.output"] = join(block, TYPES[name](query, key, value))
    compare(case, computed)


def check_tower(case: Case) -> None:
    clip, given = models.clip(case), case.settings["hyperparameters"]
    images = models.images(case)
    grid, states, block = clip.grid(images), list(clip.states(images)), clip.blocks[-1]
    assert list(grid) == given["grid"]
    computed = {"pos_embed_used": clip.position_table(*grid), "tokens_before_last_block": states[-1]}
    for name, setting in given["settings"].items():
        mix, layers = TYPES[setting["model_type"]], setting.get("last_n_layers", 1)
        residual = not setting["ignore_residual"]
        if own := counterpart(setting["model_type"], residual, layers):
            patches = own(clip, images)
        else:
            last = list(zip(clip.blocks, states, strict=True))[-layers:]
            attended = sum(join(block, mix(*heads(block, tokens))) for block, tokens in last)
            patches = clip.finish(run_network(block, states[-1] + attended) if residual else attended)[:, 1:]
        query, key, _ = heads(block, states[-1])
        computed[f"{name}.attention_head0"] = models.head0(mix, query, key)
        computed[f"{name}.patch_embeddings"] = patches
        computed[f"{name}.patch_embeddings_normalised"] = F.normalize(patches, dim=2)
    compare(case, computed)


def check_inference(case: Case) -> None:
    """Windows are padded to whole patches."""
    given = case.settings["hyperparameters"]
    assert given["model_type"] == "ClearCLIP" and given["ignore_residual"]
    compare(case, models.inference(case, "clearclip", multiple=given["patch"]))


KINDS = {
    "clearclip_attn": check_attention,
    "clearclip_p": check_tower,
    "clearclip_slide": check_inference,
}
