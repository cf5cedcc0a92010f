"""SC-CLIP's cases: outliers, their repair, aggregation, and the whole method."""

import torch
from golden import heads_models as models
from golden.cases import Case
from golden.methods_resclip import clip, patches

from proxyclip.methods.scclip import SCCLIP, Options, aggregated, highest, outlier_scores, repaired, similarity


def check_outliers(case: Case) -> None:
    given = case.settings["hyperparameters"]
    scores = outlier_scores(case.tensors["x"][None], given["n_neighbors"])
    found = highest(scores, given["contamination"])
    models.compare(case, {"scores": scores[0], "outlier_indices": found[0].nonzero().flatten()})


def check_repair(case: Case) -> None:
    given, features = case.settings["hyperparameters"], case.tensors["features"]
    outliers = torch.zeros(given["grid"], dtype=torch.bool)
    for row, column in given["points_row_col"]:
        outliers[row, column] = True
    tokens = repaired(features.flatten(2).mT, outliers.flatten()[None], given["grid"])
    models.compare(case, {"repaired": tokens.mT.unflatten(2, given["grid"])})


def check_aggregation(case: Case) -> None:
    found = aggregated(case.tensors["x"].transpose(0, 1), case.tensors["similarity"])
    models.compare(case, {"aggregated": found.transpose(0, 1)})


def check_whole(case: Case) -> None:
    given, t = case.settings["hyperparameters"], case.tensors
    # The case counts the blocks whose outputs are read from 0.
    options = Options(
        crop=0,
        short_side=0,
        templates=("{}",),
        neighbours=given["n_neighbors"],
        outlier_share=given["contamination"],
        middle_block=given["pre_adjust_idx"] + 1,
        early_block=given["post_adjust_idx"] + 1,
        level_blocks=tuple(range(given["multi_start_idx"] + 1, given["multi_end_idx"] + 1)),
        min_similarity=given["beta"],
        class_weight=given["res_cls"],
    )
    scclip, grid = SCCLIP(clip(case), None, options).eval(), given["grid"]
    early, middle, total, last = scclip.outputs(t["image"])
    scores = outlier_scores(last[:, 1:], options.neighbours)
    outliers = highest(scores, options.outlier_share)
    features, sound = repaired(middle[:, 1:], outliers, grid), repaired(last[:, 1:], outliers, grid)
    alike, near = similarity(features, options.min_similarity), similarity(early[:, 1:], options.min_similarity)
    calm = aggregated(sound, alike)
    once, again = scclip.attended(calm, features), scclip.attended(total[:, 1:], features)
    computed = {
        "F4": early,
        "F9": middle,
        "F11": last,
        "outlier_indices": outliers[0].nonzero().flatten(),
        "scores": scores[0],
        "repaired_last": sound,
        "repaired_mid": features,
        "similarity_mid": similarity(features, -1.1),
        "similarity_mid_thresholded": alike,
        "aggregated_before": calm,
        "attention_out": once,
        "similarity_post_thresholded": near,
        "aggregated_after": aggregated(once + options.class_weight * last[:, :1], near),
        "multi_attention_out": again,
        "multi_aggregated": aggregated(again + options.class_weight * total[:, :1], near),
        "tokens_out": patches(scclip.embed(t["image"])),
    }
    models.compare(case, computed)


KINDS = {
    "scclip_outliers": check_outliers,
    "scclip_repair": check_repair,
    "scclip_aggregate": check_aggregation,
    "scclip_full": check_whole,
}
