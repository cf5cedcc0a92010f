"""Reference cases of NACLIP: the neighbourhood, the attention, the tower in all its settings, and whole inferences."""

from functools import partial

import torch
import torch.nn.functional as F
from golden import dense_models as models
from golden.cases import Case
from golden.heads_models import compare
from torch.nn.functional import scaled_dot_product_attention as attend

from proxyclip.backbones.layers import heads, join, run_network
from proxyclip.methods.naclip import omega
from proxyclip.methods.sclip import correlative_attention


def mixing(strategy: str, std: float, grid, query, key):
    """Queries, keys and values -> mixed values, by one of the strategies of the published code."""
    if strategy == "naclip":
        bias = omega(*grid, std)
        return lambda q, k, v: attend(k, k, v, bias)
    if strategy == "kk":
        return lambda q, k, v: attend(k, k, v)
    if strategy == "nonly":  # no similarity at all, and a scale that takes the place of its mean size
        scale = query.shape[-1] ** -0.5 * (query.norm(dim=-1).mean(2) * key.norm(dim=-1).mean(2)).mean()
        bias = omega(*grid, std) * scale
        return lambda q, k, v: attend(torch.zeros_like(q), k, v, bias)
    return {"csa": correlative_attention, "vanilla": attend}[strategy]


def counterpart(arch: str, strategy: str, std: float):
    """The method and its options that such a setting is; None where there is none."""
    residual = arch == "vanilla"
    if strategy in ("naclip", "kk"):
        return partial(models.patches, "naclip", std=std, residual=residual)  # std is 0 for "kk"
    if strategy == "vanilla":
        return partial(models.patches, "clearclip", attention="qk", residual=residual)
    return partial(models.patches, "sclip") if strategy == "csa" and residual else None


def check_omega(case: Case) -> None:
    computed = {}
    for given in case.settings["hyperparameters"]["grids"]:
        rows, columns, std = given["rows"], given["cols"], given["std"]
        name = f"g{rows}x{columns}_std{std:g}"
        bias = omega(rows, columns, std)
        computed[f"{name}.omega"] = bias[1:, 1:]
        # All offsets of a grid are those from the middle of one that is twice as large.
        size = 2 * rows - 1, 2 * columns - 1
        computed[f"{name}.window"] = omega(*size, std)[1:, 1:][size[0] * size[1] // 2].view(size)
        computed.setdefault("with_class", bias)  # of the first grid
    compare(case, computed)


def check_attention(case: Case) -> None:
    block, given, computed = models.attention(case), case.settings["hyperparameters"], {}
    query, key, value = heads(block, case.tensors["x"])
    for name, (_, strategy, std) in given["settings"].items():
        mix = mixing(strategy, std, given["grid"], query, key)
        computed[f"{name}.attention_head0"] = models.head0(mix, query, key)
        computed[f"{name}.output"] = join(block, mix(query, key, value))
    compare(case, computed)


def check_tower(case: Case) -> None:
    clip, given = models.clip(case), case.settings["hyperparameters"]
    images = models.images(case)
    grid, tokens, block = clip.grid(images), clip.before_last_block(images), clip.blocks[-1]
    assert list(grid) == given["grid"]
    computed = {"pos_embed_used": clip.position_table(*grid), "tokens_before_last_block": tokens}
    query, key, value = heads(block, tokens)
    for name, setting in given["settings"].items():
        arch, strategy, std = setting["arch"], setting["attn_strategy"], setting["gaussian_std"]
        mix = mixing(strategy, std, grid, query, key)
        attended = join(block, mix(query, key, value))
        embeddings = clip.finish(run_network(block, tokens + attended) if arch == "vanilla" else attended)
        if own := counterpart(arch, strategy, std):
            embeddings = torch.cat([embeddings[:, :1], own(clip, images)], dim=1)
        if strategy == "naclip":
            computed[f"{name}.omega"] = omega(*grid, std)
        computed[f"{name}.attention_head0"] = models.head0(mix, query, key)
        computed[f"{name}.embeddings"] = embeddings
        computed[f"{name}.patch_embeddings_normalised"] = F.normalize(embeddings[:, 1:], dim=2)
    compare(case, computed)


def check_inference(case: Case) -> None:
    """Windows are not padded, and scores of whole images are resized twice."""
    given = case.settings["hyperparameters"]
    assert given["arch"] == "reduced" and given["attn_strategy"] == "naclip"
    computed = models.inference(
        case, "naclip", multiple=1, two_steps=not given["slide_crop"], std=given["gaussian_std"]
    )
    # What is stored has been divided by its sum over the classes after the labels were taken.
    computed["probabilities"] = F.normalize(computed["probabilities"], p=1, dim=1)
    compare(case, computed)


KINDS = {
    "naclip_omega": check_omega,
    "naclip_attn": check_attention,
    "naclip_p": check_tower,
    "naclip_slide": check_inference,
    "naclip_whole": check_inference,
}
