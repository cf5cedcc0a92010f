"""Methods that look beyond CLIP's last block: ResCLIP at earlier blocks and at labels of a first pass, SC-CLIP at
outliers and at features of earlier blocks, GLA-CLIP at all windows of an image."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from golden import towers
from golden.cases import Case
from golden.label_maps import SCORES, decide, pamr_refinement
from torch import Tensor, nn

from proxyclip.backbones.layers import join
from proxyclip.labels import LabelRule
from proxyclip.methods import glaclip
from proxyclip.methods._training_free import cosines, scaled_block
from proxyclip.methods.glaclip import proxy_anchors
from proxyclip.methods.naclip import omega
from proxyclip.methods.resclip import ResCLIP, affinity, patch_labels, residual, unbroken, weighted
from proxyclip.methods.scclip import aggregated, highest, outlier_scores, repaired, similarity
from proxyclip.refine import pamr


def resclip(case: Case, **options) -> ResCLIP:
    given = case.hyperparameters
    scale, weight = given["attn_rcs_weights"]
    options = {"std": given["gaussian_std"], "residual_scale": scale, "residual_weight": weight} | options
    return towers.method("resclip", towers.of_case(case), crop=0, **options)


def unit_values(value: Tensor) -> Tensor:
    """In place of the values (B, heads, T, d), those with which an attention gives its own weights."""
    return torch.eye(value.shape[2]).expand(*value.shape[:2], -1, -1)  # (B, heads, T, T)


def tokens(model: ResCLIP, mixed: Tensor) -> Tensor:
    """Joint embeddings of all tokens, the class token too."""
    return model.clip.finish(join(model.clip.blocks[-1], mixed))


def check_first_half(case: Case) -> None:
    grid, images = case.hyperparameters["grid"], towers.images(case)
    model, naclip = resclip(case), resclip(case, residual_scale=1.0, residual_weight=0.0)
    middle, key, value = model.to_last_block(images)
    unit, block = unit_values(value), model.clip.blocks[-1]
    mixed = model.with_residual(model.neighbourly(key, value, grid), residual(middle, value))
    weights = model.with_residual(model.neighbourly(key, unit, grid), residual(middle, unit))
    computed = {
        "last_block_ln1": block.ln_1(model.clip.before_last_block(images)),
        "omega": omega(*grid, model.options.std)[None],
        "R": residual(middle, unit).flatten(0, 1),
        "attn": weights.flatten(0, 1),
        "attn_out": join(block, mixed),
        "tokens_out": tokens(model, mixed),
        "tokens_out_without_R": tokens(naclip, model.neighbourly(key, value, grid)),
    }
    case.compare(computed)
    for method, name in ((model, "tokens_out"), (naclip, "tokens_out_without_R")):
        case.assert_close(name, method.embed(images).flatten(2).mT, case.tensors[name][:, 1:])


def check_feedback(case: Case) -> None:
    labels, std = case.tensors["label_map"].long(), case.hyperparameters["gaussian_std"]
    case.compare({
        "path_valid": unbroken(labels).flatten(2).flatten(0, 1),
        "G": affinity(labels, std, path_rule=True)[None],
        "G_no_path_rule": affinity(labels, std, path_rule=False)[None],
    })  # fmt: skip


def check_patch_labels(case: Case) -> None:
    given, (probabilities,) = case.hyperparameters, case.tensors["probabilities"]  # (Q, H, W)
    queries = len(probabilities)
    pixels, _ = decide(probabilities.log(), LabelRule(threshold=given["temp_thd"]), torch.arange(queries))
    assert torch.equal(pixels, case.tensors["pixel_labels"].long())
    case.compare({"patch_labels": patch_labels(pixels, given["patch_size"], queries)})


def check_both_halves(case: Case) -> None:
    given, t, images = case.hyperparameters, case.tensors, towers.images(case)
    text, grid, keep = t["query_features"], given["grid"], range(given["queries"])
    scale, weight = given["attn_sfr_weights"]
    options = {"feedback_scale": scale, "feedback_weight": weight, "feedback_threshold": given["temp_thd"]}
    options |= {"path_rule": given["delete_same_entity"], "logit_scale": float(given["logit_scale"])}
    model = resclip(case, **options)
    assert pamr_refinement(given["pamr"]).options == pamr.Options()  # the first pass has no other
    middle, key, value = model.to_last_block(images)
    unit = unit_values(value)
    first = cosines(model.embed(images), text)[0]  # (Q, h, w)
    unscaled = model.first_labels(images[0], first, SCORES, keep)
    rule = LabelRule(model.options.logit_scale, threshold=model.options.feedback_threshold)
    decided = model.first_labels(images[0], first, rule, keep)
    labels = patch_labels(decided.labels, model.clip.patch_size, len(text))
    feedback = affinity(labels, model.options.std, model.options.path_rule)
    mixed = model.with_residual(model.guided(key, value, labels), residual(middle, value))
    case.compare({
        "first_pass_refined": torch.stack([unscaled.class_scores[query] for query in keep])[None],
        "first_pass_probabilities": torch.stack([decided.class_scores[query] for query in keep])[None],
        "patch_labels": labels,
        "G": feedback[None],
        "lambda_G_fp16": weighted(feedback, model.options.feedback_weight)[None],
        "last_block_ln1": model.clip.blocks[-1].ln_1(model.clip.before_last_block(images)),
        "attn": model.with_residual(model.guided(key, unit, labels), residual(middle, unit))[0],
        "tokens_out": tokens(model, mixed),
    })  # fmt: skip
    expected = cosines(t["tokens_out"][:, 1:].mT.unflatten(2, grid), text)  # (1, Q, h, w)
    case.assert_close("tokens_out", model.window_scores(images, text), expected)


def check_outliers(case: Case) -> None:
    given = case.hyperparameters
    scores = outlier_scores(case.tensors["x"][None], given["n_neighbors"])
    outliers = highest(scores, given["contamination"])
    case.compare({"scores": scores[0], "outlier_indices": outliers[0].nonzero().flatten()})


def check_repair(case: Case) -> None:
    given, features = case.hyperparameters, case.tensors["features"]
    outliers = torch.zeros(given["grid"], dtype=torch.bool)
    outliers[tuple(zip(*given["points_row_col"], strict=True))] = True
    rows = repaired(features.flatten(2).mT, outliers.flatten()[None], given["grid"])
    case.compare({"repaired": rows.mT.unflatten(2, given["grid"])})


def check_aggregation(case: Case) -> None:
    result = aggregated(case.tensors["x"].transpose(0, 1), case.tensors["similarity"])
    case.compare({"aggregated": result.transpose(0, 1)})


def check_scclip(case: Case) -> None:
    given, clip, images = case.hyperparameters, towers.of_case(case), towers.images(case)
    grid, depth = given["grid"], len(clip.blocks)

    def number(index: int) -> int:
        """The option for a block: cases count from 0, options those of a CLIP of 12 blocks from 1."""
        return next(number for number in range(1, 12) if scaled_block(number, depth) == index + 1)

    middle, early = given["pre_adjust_idx"], given["post_adjust_idx"]
    options = {
        "neighbours": given["n_neighbors"],
        "outlier_share": given["contamination"],
        "middle_block": number(middle),
        "early_block": number(early),
        "level_blocks": tuple(map(number, range(given["multi_start_idx"], given["multi_end_idx"]))),
        "min_similarity": given["beta"],
        "class_weight": given["res_cls"],
    }
    model = towers.method("scclip", clip, crop=0, **options)
    options = model.options
    of_early, of_middle, total, last = model.outputs(images)
    scores = outlier_scores(last[:, 1:], options.neighbours)
    outliers = highest(scores, options.outlier_share)
    features, sound = repaired(of_middle[:, 1:], outliers, grid), repaired(last[:, 1:], outliers, grid)
    alike, near = (similarity(part, options.min_similarity) for part in (features, of_early[:, 1:]))
    calm = aggregated(sound, alike)
    once, again = model.attended(calm, features), model.attended(total[:, 1:], features)
    case.compare({
        f"F{early + 1}": of_early,
        f"F{middle + 1}": of_middle,
        f"F{depth - 1}": last,
        "outlier_indices": outliers[0].nonzero().flatten(),
        "scores": scores[0],
        "repaired_last": sound,
        "repaired_mid": features,
        "similarity_mid": similarity(features, -1.1),  # below every cosine
        "similarity_mid_thresholded": alike,
        "aggregated_before": calm,
        "attention_out": once,
        "similarity_post_thresholded": near,
        "aggregated_after": aggregated(once + options.class_weight * last[:, :1], near),
        "multi_attention_out": again,
        "multi_aggregated": aggregated(again + options.class_weight * total[:, :1], near),
        "tokens_out": model.embed(images).flatten(2).mT,
    })  # fmt: skip


def gla_options(given: dict) -> dict:
    """The options that published hyper-parameters are."""
    flags = given["flags"]
    assert (given["temperature"], given["cutting_hp"]) == (1.0, 0.0)  # those of all published runs
    return {
        "similarity": given["initial_crit_pos"],
        "steps": given["mini_iters"] if "proxy_sim" in flags else 0,
        "beta_growth": given["beta_alpha"],
        "gamma_growth": float(given["gamma_alpha"]),
        "row_mean": "token_norm" in flags,
        "fixed_beta": None if "dynamic_beta" in flags else given["fixed_beta"],
        "fixed_gamma": None if "dynamic_gamma" in flags else given["fixed_gamma"],
    }


def check_gla_attention(case: Case) -> None:
    given, t = case.hyperparameters, case.tensors
    options, features = glaclip.Options(**gla_options(given)), t["ex_feats_grid"].flatten(0, 1)  # (W, C, h, w)
    windows = len(features)
    features = F.normalize(features, dim=1).transpose(0, 1).flatten(1)  # (C, n)
    values = t["v"].unflatten(0, (windows, -1)).mT.flatten(1, 2)  # (W, heads * d, tokens)
    values = F.interpolate(values.unflatten(2, given["token_size"]), given["vfm_grid"], mode="bilinear")
    values = values.transpose(0, 1).flatten(1)  # (heads * d, n)
    bare = SimpleNamespace(options=options, clip=SimpleNamespace(project=lambda mixed: mixed))

    def mixed(values: Tensor) -> Tensor:
        parts = [embeddings for _, embeddings in glaclip.Method.mixed(bare, features, values, windows)]
        return torch.cat(parts).unflatten(0, (windows, -1))  # (W, h * w, ...)

    attention = mixed(torch.eye(features.shape[1]))
    anchors, count = proxy_anchors(features.T, features.T, features, options.similarity, options.steps)
    case.compare({
        "attn": attention,
        "masked_logits_finite": attention > 0,
        "last_similarity": (anchors @ features)[None],
        "count": count[:, 0],
        "out": mixed(values).transpose(0, 1),
    })  # fmt: skip


class StoredFeatures(nn.Module):
    """A VFM that returns the features of a case, window after window."""

    name = "stored"

    def __init__(self, features: Tensor, patch_size: int):
        super().__init__()
        self.waiting, self.patch_size = features, patch_size

    def forward(self, crops: Tensor) -> Tensor:
        features, self.waiting = self.waiting.tensor_split([len(crops)])
        return features


def check_gla_tower(case: Case) -> None:
    given, clip, images = case.hyperparameters, towers.of_case(case), towers.images(case)
    vfm = StoredFeatures(case.tensors["ex_feats"], patch_size=given["window_hw"][0] // given["vfm_grid"][0])
    model = towers.method("glaclip", clip, vfm, multiple=1, **gla_options(given))
    computed = {"last_block_ln1": clip.blocks[-1].ln_1(clip.before_last_block(images)[:, 1:])}
    case.compare(computed | {"tokens_out": model.embed(images).flatten(2).mT})


KINDS = {
    "resclip_rcs": check_first_half,
    "resclip_sfr": check_feedback,
    "resclip_patch_matrix": check_patch_labels,
    "resclip_full": check_both_halves,
    "scclip_outliers": check_outliers,
    "scclip_repair": check_repair,
    "scclip_aggregate": check_aggregation,
    "scclip_full": check_scclip,
    "gla": check_gla_attention,
    "gla_tower": check_gla_tower,
}
