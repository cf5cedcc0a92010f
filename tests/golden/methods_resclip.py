"""ResCLIP's cases: the first half, the parts of the second half, and the whole method."""

import torch
from golden import dense_models
from golden import heads_models as models
from golden.cases import Case

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise, join
from proxyclip.labels import LabelRule, decide_labels
from proxyclip.methods._training_free import cosines
from proxyclip.methods.naclip import omega
from proxyclip.methods.resclip import Options, ResCLIP, affinity, patch_labels, residual, unbroken, weighted
from proxyclip.windows import SlidingWindows, View, WindowScores


def clip(case: Case) -> DenseCLIP:
    """The tower of a case; it takes images as they are, because those of the cases are normalised."""
    built = dense_models.clip(case)
    built.normalise = Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return built


def model(case: Case, **options) -> ResCLIP:
    given = case.settings["hyperparameters"]
    options = {
        "std": given["gaussian_std"],
        "residual_scale": given["attn_rcs_weights"][0],
        "residual_weight": given["attn_rcs_weights"][1],
    } | options
    return ResCLIP(clip(case), None, Options(crop=0, short_side=0, templates=("{}",), **options)).eval()


def unit_values(value: torch.Tensor) -> torch.Tensor:
    """In place of the values (B, heads, T, d), those with which an attention gives its own weights."""
    return torch.eye(value.shape[2]).expand(*value.shape[:2], -1, -1)  # (B, heads, T, T)


def tokens(resclip: ResCLIP, mixed: torch.Tensor) -> torch.Tensor:
    """Joint embeddings of all tokens, the class token too."""
    return resclip.clip.finish(join(resclip.clip.blocks[-1], mixed))


def patches(embeddings: torch.Tensor) -> torch.Tensor:
    return embeddings.flatten(2).mT  # (B, N, E)


def check_first_half(case: Case) -> None:
    t, grid = case.tensors, case.settings["hyperparameters"]["grid"]
    resclip = model(case)
    middle, key, value = resclip.to_last_block(t["image"])
    unit = unit_values(value)
    mixed = resclip.with_residual(resclip.neighbourly(key, value, grid), residual(middle, value))
    weights = resclip.with_residual(resclip.neighbourly(key, unit, grid), residual(middle, unit))
    block = resclip.clip.blocks[-1]
    naclip = model(case, residual_scale=1.0, residual_weight=0.0)
    computed = {
        "last_block_ln1": block.ln_1(resclip.clip.before_last_block(t["image"])),
        "omega": omega(*grid, resclip.options.std)[None],
        "R": residual(middle, unit).flatten(0, 1),
        "attn": weights.flatten(0, 1),
        "attn_out": join(block, mixed),
        "tokens_out": tokens(resclip, mixed),
        "tokens_out_without_R": tokens(naclip, resclip.neighbourly(key, value, grid)),
    }
    models.compare(case, computed)
    for method, name in ((resclip, "tokens_out"), (naclip, "tokens_out_without_R")):
        models.assert_close(case, name, patches(method.embed(t["image"])), t[name][:, 1:])


def check_feedback(case: Case) -> None:
    labels, std = case.tensors["label_map"].long(), case.settings["hyperparameters"]["gaussian_std"]
    computed = {
        "path_valid": unbroken(labels).flatten(2).flatten(0, 1),
        "G": affinity(labels, std, True)[None],
        "G_no_path_rule": affinity(labels, std, False)[None],
    }
    models.compare(case, computed)


def check_patch_labels(case: Case) -> None:
    given, probabilities = case.settings["hyperparameters"], case.tensors["probabilities"][0]
    size, queries = given["image_hw"], torch.arange(given["queries"])
    scores = WindowScores((View(probabilities.log().transpose(0, 1), SlidingWindows(0, 1), size),))
    rule = LabelRule(threshold=given["temp_thd"])
    pixels = decide_labels(scores, size, rule, queries, refine=lambda maps: maps).labels
    assert torch.equal(pixels, case.tensors["pixel_labels"].long())
    models.compare(case, {"patch_labels": patch_labels(pixels, given["patch_size"], given["queries"])})


def check_both_halves(case: Case) -> None:
    given, t = case.settings["hyperparameters"], case.tensors
    image, text, grid = t["image"], t["query_features"], given["grid"]
    resclip = model(
        case,
        logit_scale=float(given["logit_scale"]),
        feedback_scale=given["attn_sfr_weights"][0],
        feedback_weight=given["attn_sfr_weights"][1],
        feedback_threshold=given["temp_thd"],
        path_rule=given["delete_same_entity"],
    )
    options = resclip.options
    middle, key, value = resclip.to_last_block(image)
    unit = unit_values(value)
    first = cosines(resclip.embed(image), text)[0]  # (Q, h, w)
    keep = range(given["queries"])
    unscaled = resclip.first_labels(image[0], first, LabelRule(activation="none"), keep)
    rule = LabelRule(options.logit_scale, threshold=options.feedback_threshold)
    decided = resclip.first_labels(image[0], first, rule, keep)
    labels = patch_labels(decided.labels, given["patch_size"], given["queries"])
    feedback = affinity(labels, options.std, options.path_rule)
    mixed = resclip.with_residual(resclip.guided(key, value, labels), residual(middle, value))
    computed = {
        "first_pass_refined": torch.stack([unscaled.class_scores[query] for query in keep])[None],
        "first_pass_probabilities": torch.stack([decided.class_scores[query] for query in keep])[None],
        "patch_labels": labels,
        "G": feedback[None],
        "lambda_G_fp16": weighted(feedback, options.feedback_weight)[None],
        "last_block_ln1": resclip.clip.blocks[-1].ln_1(resclip.clip.before_last_block(image)),
        "attn": resclip.with_residual(resclip.guided(key, unit, labels), residual(middle, unit))[0],
        "tokens_out": tokens(resclip, mixed),
    }
    models.compare(case, computed)
    expected = cosines(t["tokens_out"][:, 1:].mT.unflatten(2, grid), text)  # (1, Q, h, w)
    models.assert_close(case, "tokens_out", resclip.window_scores(image, text), expected)


KINDS = {
    "resclip_rcs": check_first_half,
    "resclip_sfr": check_feedback,
    "resclip_patch_matrix": check_patch_labels,
    "resclip_full": check_both_halves,
}
