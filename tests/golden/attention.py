"""Methods that change the attention of CLIP's last block: SCLIP, ClearCLIP, NACLIP, GEM and PEARL.

A mixing takes queries, keys and values, (B, heads, T, d) each, and returns mixed values of that shape.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from golden import towers
from golden.cases import Case
from golden.label_maps import (
    SCORES,
    boxes_and_paddings,
    check_areas,
    pamr_refinement,
    predict,
    tlp_refinement,
    vocabulary,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import heads, join, run_block, run_network
from proxyclip.labels import LabelRule
from proxyclip.methods.gem import GEM, self_self_attention, sharpness
from proxyclip.methods.gem import Options as GEMOptions
from proxyclip.methods.naclip import omega
from proxyclip.methods.pearl import Options as PEARLOptions
from proxyclip.methods.pearl import aligned, centred, rotation
from proxyclip.methods.sclip import correlative_attention
from proxyclip.windows import cut

Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]


def head0(mix: Mixing, query: Tensor, key: Tensor) -> Tensor:
    """The attention matrix of the first head, (B, T, T): the identity as values shows what each token takes from
    which."""
    batch, count, tokens, _ = query.shape
    return mix(query, key, torch.eye(tokens).expand(batch, count, tokens, tokens))[:, 0]


def compare_attention(case: Case, mixings: dict[str, Mixing]) -> None:
    """Each mixing by its name in the case, in a block that is nothing but an attention."""
    block, computed = towers.attention(case.weights(), case.hyperparameters["heads"]), {}
    query, key, value = heads(block, case.tensors["x"])
    for name, mix in mixings.items():
        computed[f"{name}.attention_head0"] = head0(mix, query, key)
        computed[f"{name}.output"] = join(block, mix(query, key, value))
    case.compare(computed)


def patches(name: str, tower: DenseCLIP, images: Tensor, **options) -> Tensor:
    """A method's embeddings of all patches, (B, N, E)."""
    return towers.method(name, tower, **options).embed(images).flatten(2).mT


def with_class_token(tower: DenseCLIP, last: Tensor, embeddings: Tensor) -> Tensor:
    """The embeddings of patches (B, N, E), after that of the class token of the last tokens (B, T, D)."""
    return torch.cat([tower.finish(last[:, :1]), embeddings], dim=1)


def inference(case: Case, name: str, refinement=None, **options) -> dict[str, Tensor]:
    """A whole inference of a method on one image; all that the json says of windows and areas is checked as well."""
    given, t = case.hyperparameters, case.tensors
    options |= {"crop": given["slide_crop"], "stride": given["slide_stride"], "logit_scale": given["logit_scale"]}
    model = towers.method(name, towers.of_case(case), area=given.get("area_thd") or 0.0, **options)
    text = t["query_features"] if "query_features" in t else t["text"]  # (Q, E)
    model.encode_classes = lambda words: text
    (image,) = towers.images(case)  # (3, h, w)
    boxes, paddings = boxes_and_paddings(model.windows, image.shape[1:])
    assert case.values.get("windows_y1x1y2x2", boxes) == boxes
    assert case.values.get("windows_pad_lrtb", paddings) == paddings
    computed, size, each = {}, given["ori_shape"], vocabulary(range(len(text)))
    for index, window in enumerate(cut(image, model.windows, model.padding_colour)):
        scores = model.window_scores(window[None], text)
        computed[f"window{index}.logits"] = F.interpolate(scores, window.shape[1:], mode="bilinear")
    for kind in ("logits", "cosines"):
        computed[f"stitched_{kind}"] = predict(model, image, image.shape[1:], each, SCORES)[1][None]
    computed["resized_cosines"] = predict(model, image, size, each, SCORES)[1][None]
    model.refinement = refinement
    for kind in ("final_logits", "propagated_cosines"):
        computed[kind] = predict(model, image, size, each, SCORES)[1][None]
    classes, rule = vocabulary(given["query_idx"]), model.label_rule.with_threshold(given["prob_thd"])
    if rule.area:
        plain, _ = predict(model, image, size, classes, LabelRule(rule.scale))
        check_areas(case, plain.labels, rule.area, torch.tensor(given["query_idx"]))
    result, probabilities = predict(model, image, size, classes, rule)
    return computed | {"label": result.labels[None], "probabilities": probabilities[None]}


def check_sclip_attention(case: Case) -> None:
    settings = case.hyperparameters["settings"].items()
    compare_attention(case, {name: correlative_attention if own["csa"] else attend for name, own in settings})


def check_sclip_tower(case: Case) -> None:
    clip, images = towers.of_case(case), towers.images(case)
    tokens, block = clip.before_last_block(images), clip.blocks[-1]
    query, key, value = heads(block, tokens)
    weights, embeddings = head0(correlative_attention, query, key), patches("sclip", clip, images)
    limits = [case.values["attention_row_sum_min"], case.values["attention_row_sum_max"]]
    case.assert_close("attention row sums", torch.stack(weights.sum(2).aminmax()), torch.tensor(limits))
    after = run_network(block, tokens + join(block, correlative_attention(query, key, value)))
    whole = with_class_token(clip, after, embeddings)  # (B, T, E)
    case.compare({
        "pos_embed_used": clip.position_table(*case.hyperparameters["grid"]),
        "tokens_before_last_block": tokens,
        "attention_head0": weights,
        "embeddings": whole,
        "patch_embeddings_normalised": F.normalize(embeddings, dim=2),
        "embeddings_no_csa": clip.finish(run_block(block, tokens)),
        "image_embedding": whole[:, 0],
    })  # fmt: skip


def check_sclip_inference(case: Case) -> None:
    """Windows are not padded. The published code leaves PAMR out for whole images without saying so; here, as for
    windows, it runs where it is asked for."""
    case.compare(inference(case, "sclip", pamr_refinement(case.hyperparameters["pamr"]), multiple=1))


CLEARCLIP_TYPES: dict[str, Mixing] = {
    "ClearCLIP": lambda query, key, value: attend(query, query, value),
    "SCLIP": correlative_attention,
    "MaskCLIP": lambda query, key, value: value,
    "vanilla": attend,
}


def clearclip_options(kind: str, residual: bool) -> dict | None:
    """The method and its options that such a setting is; None where there is none."""
    if kind in ("ClearCLIP", "vanilla"):
        return {"name": "clearclip", "attention": {"ClearCLIP": "qq", "vanilla": "qk"}[kind], "residual": residual}
    known = {("SCLIP", True): "sclip", ("MaskCLIP", False): "maskclip"}
    return {"name": known[kind, residual]} if (kind, residual) in known else None


def check_clearclip_attention(case: Case) -> None:
    settings = case.hyperparameters["settings"].items()
    compare_attention(case, {name: CLEARCLIP_TYPES[own["model_type"]] for name, own in settings})


def check_clearclip_tower(case: Case) -> None:
    clip, given, images = towers.of_case(case), case.hyperparameters, towers.images(case)
    states, block = list(clip.states(images)), clip.blocks[-1]
    query, key, _ = heads(block, states[-1])
    computed = {"pos_embed_used": clip.position_table(*given["grid"]), "tokens_before_last_block": states[-1]}
    for name, setting in given["settings"].items():
        mix, layers = CLEARCLIP_TYPES[setting["model_type"]], setting.get("last_n_layers", 1)
        residual = not setting["ignore_residual"]
        options = clearclip_options(setting["model_type"], residual)
        if options and layers == 1:
            embeddings = patches(tower=clip, images=images, **options)
        else:
            last = list(zip(clip.blocks, states, strict=True))[-layers:]
            attended = sum(join(block, mix(*heads(block, tokens))) for block, tokens in last)
            embeddings = clip.finish(run_network(block, states[-1] + attended) if residual else attended)[:, 1:]
        computed[f"{name}.attention_head0"] = head0(mix, query, key)
        computed[f"{name}.patch_embeddings"] = embeddings
        computed[f"{name}.patch_embeddings_normalised"] = F.normalize(embeddings, dim=2)
    case.compare(computed)


def check_clearclip_inference(case: Case) -> None:
    """Windows are padded to whole patches."""
    given = case.hyperparameters
    options = clearclip_options(given["model_type"], not given["ignore_residual"])
    case.compare(inference(case, refinement=pamr_refinement(given["pamr"]), multiple=given["patch"], **options))


def naclip_mixing(strategy: str, std: float, grid, query: Tensor, key: Tensor) -> Mixing:
    if strategy == "naclip":
        return lambda q, k, v: attend(k, k, v, omega(*grid, std))
    if strategy == "kk":
        return lambda q, k, v: attend(k, k, v)
    if strategy == "nonly":  # no similarity at all, and a scale that takes the place of its mean size
        scale = query.shape[-1] ** -0.5 * (query.norm(dim=-1).mean(2) * key.norm(dim=-1).mean(2)).mean()
        return lambda q, k, v: attend(torch.zeros_like(q), k, v, omega(*grid, std) * scale)
    return {"csa": correlative_attention, "vanilla": attend}[strategy]


def naclip_options(arch: str, strategy: str, std: float) -> dict | None:
    """The method and its options that such a setting is; None where there is none."""
    residual = arch == "vanilla"
    if strategy in ("naclip", "kk"):
        return {"name": "naclip", "std": std if strategy == "naclip" else 0.0, "residual": residual}
    if strategy == "vanilla":
        return {"name": "clearclip", "attention": "qk", "residual": residual}
    return {"name": "sclip"} if strategy == "csa" and residual else None


def check_omega(case: Case) -> None:
    computed = {}
    for given in case.hyperparameters["grids"]:
        rows, columns, std = given["rows"], given["cols"], given["std"]
        name, bias = f"g{rows}x{columns}_std{std:g}", omega(rows, columns, std)
        computed[f"{name}.omega"] = bias[1:, 1:]
        # All offsets of a grid are those from the middle of one that is twice as large.
        size = 2 * rows - 1, 2 * columns - 1
        computed[f"{name}.window"] = omega(*size, std)[1:, 1:][size[0] * size[1] // 2].view(size)
        computed.setdefault("with_class", bias)  # of the first grid
    case.compare(computed)


def check_naclip_attention(case: Case) -> None:
    given, mixings = case.hyperparameters, {}
    query, key, _ = heads(towers.attention(case.weights(), given["heads"]), case.tensors["x"])
    for name, (_, strategy, std) in given["settings"].items():
        mixings[name] = naclip_mixing(strategy, std, given["grid"], query, key)
    compare_attention(case, mixings)


def check_naclip_tower(case: Case) -> None:
    clip, given, images = towers.of_case(case), case.hyperparameters, towers.images(case)
    grid, tokens, block = given["grid"], clip.before_last_block(images), clip.blocks[-1]
    query, key, value = heads(block, tokens)
    computed = {"pos_embed_used": clip.position_table(*grid), "tokens_before_last_block": tokens}
    for name, setting in given["settings"].items():
        arch, strategy, std = setting["arch"], setting["attn_strategy"], setting["gaussian_std"]
        mix = naclip_mixing(strategy, std, grid, query, key)
        attended = join(block, mix(query, key, value))
        last = run_network(block, tokens + attended) if arch == "vanilla" else attended
        embeddings = clip.finish(last)
        if options := naclip_options(arch, strategy, std):
            embeddings = with_class_token(clip, last, patches(tower=clip, images=images, **options))
        if strategy == "naclip":
            computed[f"{name}.omega"] = omega(*grid, std)
        computed[f"{name}.attention_head0"] = head0(mix, query, key)
        computed[f"{name}.embeddings"] = embeddings
        computed[f"{name}.patch_embeddings_normalised"] = F.normalize(embeddings[:, 1:], dim=2)
    case.compare(computed)


def check_naclip_inference(case: Case) -> None:
    """Windows are not padded, and scores of whole images are resized twice."""
    given = case.hyperparameters
    options = naclip_options(given["arch"], given["attn_strategy"], given["gaussian_std"])
    options |= {"multiple": 1, "two_steps": not given["slide_crop"]}
    computed = inference(case, refinement=pamr_refinement(given["pamr"]), **options)
    # What is stored has been divided by its sum over the classes after the labels were taken.
    computed["probabilities"] = F.normalize(computed["probabilities"], p=1, dim=1)
    case.compare(computed)


def tokens_first(computed: dict[str, Tensor]) -> dict[str, Tensor]:
    """(B, T, D) as some cases of GEM store it, (T, B, D)."""
    return {name: value.transpose(0, 1) if value.dim() == 3 else value for name, value in computed.items()}


def check_gem_attention(case: Case) -> None:
    given, normed = case.hyperparameters, case.tensors["x"].transpose(0, 1)  # (B, T, D)
    weights = case.weights(f"visual.transformer.resblocks.{given['block']}.attn.")
    block = towers.attention(weights, given["heads"])
    query, key, value = heads(block, normed)
    own = sharpness(normed, query.shape[-1])  # (B, 1, 1, 1)
    computed = {"ordinary": join(block, attend(query, key, value)), "inverse_temperature": own.flatten()}
    for name, variant in given["variants"].items():
        factor = variant["ss_attn_temp"] or own
        mixed = self_self_attention(query, key, value, factor, variant["ss_attn_iter"])
        computed[f"gem_{name}"] = join(block, mixed)
    case.compare(tokens_first(computed))


def check_gem_block(case: Case) -> None:
    given, t = case.hyperparameters, case.tensors
    transformer = import_library("open_clip.transformer")
    shape = {"d_model": given["width"], "n_head": given["heads"], "mlp_ratio": given["mlp_ratio"]}
    block = transformer.ResidualAttentionBlock(**shape, act_layer=transformer.QuickGELU).eval()
    block.load_state_dict(case.weights(f"visual.transformer.resblocks.{given['block']}."))
    options = GEMOptions(iterations=given["ss_attn_iter"], sharpness=given["ss_attn_temp"])

    def streams(tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams after the block that tokens (B, T, D) enter: those of a model with no other block."""
        clip = SimpleNamespace(blocks=[block], embed=lambda crops, **more: crops)
        ((dense, entered),) = GEM.streams(SimpleNamespace(clip=clip, options=options), tokens)
        return dense, run_block(block, entered)

    one, other = t["gem_in"].transpose(0, 1), t["ordinary_in"].transpose(0, 1)  # (B, T, D)
    computed = dict(zip(("single_gem", "single_ordinary"), streams(one), strict=True))
    dense, computed["pair_ordinary"] = streams(other)
    computed["pair_gem"] = one + (dense - other)
    case.compare(tokens_first(computed))


def check_gem_chain(case: Case) -> None:
    """`depth` n of the published code is about the last n - 1 blocks."""
    clip, given, images = towers.of_case(case), case.hyperparameters, towers.images(case)
    blocks = given["gem_blocks"]
    options = {"iterations": given["ss_attn_iter"], "sharpness": given["ss_attn_temp"], "blocks": len(blocks)}
    model = towers.method("gem", clip, crop=0, multiple=1, **options)
    assert blocks == list(range(given["layers"]))[-len(blocks) :]
    dense, entered = zip(*model.streams(images), strict=True)
    ordinary = [*entered[1:], run_block(clip.blocks[-1], entered[-1])]
    positions = clip.position_table(*given["grid"], None, antialias=True)[None]
    computed = {"positions": positions, "chain_in": entered[0]}
    computed |= {f"gem_after_{index}": tokens for index, tokens in zip(blocks, dense, strict=True)}
    computed |= {f"ordinary_after_{index}": tokens for index, tokens in zip(blocks, ordinary, strict=True)}
    embeddings = model.embed(images).flatten(2).mT  # (B, N, E)
    computed["gem_tokens_out"] = with_class_token(clip, dense[-1], embeddings)
    computed["ordinary_tokens_out"] = clip.finish(ordinary[-1])
    if "text" in case.tensors:
        scores = model.window_scores(images, case.tensors["text"])
        computed["heat"] = heat = F.interpolate(scores, images.shape[2:], mode="bilinear")
        low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
        computed["heat_minmax"] = (heat - low) / (high - low)  # for pictures; labels do not need it
    case.compare(computed)


def pearl_options(given: dict) -> dict:
    """The options among published hyper-parameters."""
    names = {"alpha_kk": "alpha", "polar_iters": "steps"}
    options = {own: given[name] for name, own in names.items() if name in given}
    options |= {"class_token": not given["detach_cls"]} if "detach_cls" in given else {}
    return options | ({} if given.get("use_kk", True) else {"alpha": 0.0})


def pearl_attention(query: Tensor, key: Tensor, options: PEARLOptions) -> dict[str, Tensor]:
    """(..., T, d) each -> the steps of the attention, by their names in the cases."""
    centred_query, centred_key = centred(query, key, options.class_token)
    covariance = centred_key.mT @ centred_query
    rows, columns = aligned(query, key, options)
    weights = (rows @ columns.mT * query.shape[-1] ** -0.5).softmax(-1)
    return {"M": covariance, "R": rotation(covariance, options.steps), "attn": weights}


def check_pearl_attention(case: Case) -> None:
    given, t, computed = case.hyperparameters, case.tensors, {}
    for variant, changes in given["variants"].items():
        steps = pearl_attention(t["q"], t["k"], PEARLOptions(**pearl_options(given["defaults"] | changes)))
        steps["out"] = steps["attn"] @ t["v"]
        computed |= {f"{name}_{variant}": value for name, value in steps.items()}
    case.compare(computed)


def check_pearl_tower(case: Case) -> None:
    given, clip, images = case.hyperparameters, towers.of_case(case), towers.images(case)
    model = towers.method("pearl", clip, multiple=1, **pearl_options(given))
    tokens, block = clip.before_last_block(images), clip.blocks[-1]
    query, key, value = heads(block, tokens)
    steps = pearl_attention(query, key, model.options)
    mixed = join(block, steps["attn"] @ value)
    computed = {name: part.flatten(0, 1) for name, part in steps.items()}
    computed |= {"after_ln_pre": clip.embed(images), "last_block_ln1": block.ln_1(tokens), "attn_out": mixed}
    if given["arch"] == "reduced":
        computed["tokens_out"] = with_class_token(clip, mixed, model.embed(images).flatten(2).mT)
    else:  # with residual and MLP, an ablation of the paper that the method does not offer
        computed["tokens_out"] = clip.finish(run_network(block, tokens + mixed))
    case.compare(computed)


def check_pearl_inference(case: Case) -> None:
    """Scores of whole images are resized twice."""
    given = case.hyperparameters
    options = pearl_options(given) | {"multiple": 1, "two_steps": not given["slide_crop"]}
    computed = inference(case, "pearl", tlp_refinement(given), **options)
    (computed["label"],) = computed["label"]
    (probabilities,) = computed["probabilities"]
    case.compare(computed | {"probabilities": F.normalize(probabilities, p=1, dim=0)})


def tower_or_inference(check_tower: Callable, check_inference: Callable) -> Callable[[Case], None]:
    """Which of them a case is about: names do not tell, but only inferences have windows."""
    return lambda case: (check_inference if "slide_crop" in case.hyperparameters else check_tower)(case)


KINDS = {
    "sclip_attn": check_sclip_attention,
    "sclip": tower_or_inference(check_sclip_tower, check_sclip_inference),
    "clearclip_attn": check_clearclip_attention,
    "clearclip": tower_or_inference(check_clearclip_tower, check_clearclip_inference),
    "naclip_omega": check_omega,
    "naclip_attn": check_naclip_attention,
    "naclip": tower_or_inference(check_naclip_tower, check_naclip_inference),
    "gem_attention": check_gem_attention,
    "gem_block": check_gem_block,
    "gem_chain": check_gem_chain,
    "pearl_attn": check_pearl_attention,
    "pearl_tower": check_pearl_tower,
    "pearl_pipeline": check_pearl_inference,
}
