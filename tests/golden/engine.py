"""ProxyCLIP: its attention, CLIP and the VFMs, whole inferences, text embeddings, reading of images, and the metric.

Where the published code has a slip that is put right here, the tensors that hold the right result are compared:
non-square windows `*_rows_first` and `fixed.*`; batches `*_elemI`, one window at a time; rows without any entry, NaN
there, keep their own patch here.
"""

import numpy as np
import torch
import torch.nn.functional as F
from class_file_queries import split_queries
from golden import towers
from golden.cases import Case, all_rows
from golden.label_maps import SCORES, boxes_and_paddings, predict, vocabulary
from statistics_of_images import denormalise, normalise
from torch import Tensor

from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.images import resize, scaled_size, to_tensor
from proxyclip.methods.proxyclip import proxy_attend
from proxyclip.text import default_templates, encode_names, encode_prompts
from proxyclip.vocabulary import Vocabulary, class_lines
from proxyclip.windows import cut


def compare_right(case: Case, computed: dict[str, Tensor], left_out: tuple[str, ...] = ()) -> None:
    """The right result of the published code, where there are two under different names."""
    stored = case.tensors
    right = {name: twin for name in stored for twin in (f"{name}_rows_first", f"fixed.{name}") if twin in stored}
    computed = {right.get(name, name): value for name, value in computed.items()}
    case.compare(computed, (*left_out, *right))


def check_proxy_attention(case: Case) -> None:
    given, t, features = case.settings, case.tensors, case.tensors["ex_feats"]  # (B, C, h, w)
    width, grid = given["width"], features.shape[2:]
    weight, bias = t["attn.in_proj_weight"][2 * width :], t["attn.in_proj_bias"][2 * width :]
    values = F.linear(t["x"][1:].transpose(0, 1), weight, bias).mT.unflatten(2, given["clip_grid_rows_cols"])
    values = F.interpolate(values, grid, mode="bilinear").flatten(2).mT  # (B, n, D)
    unit = torch.eye(values.shape[1]).expand(len(values), -1, -1)  # values that show the attention itself
    computed = {}
    for setting in given["settings"]:
        prefix, strength = f"s{setting['index']}.", (setting["beta"], setting["gamma"])
        mixed, attention = proxy_attend(features, values, *strength), proxy_attend(features, unit, *strength)
        out = F.linear(mixed, t["attn.out_proj.weight"], t["attn.out_proj.bias"])  # (B, n, D)
        heads = values.unflatten(2, (given["num_heads"], -1)).transpose(1, 2)  # (B, heads, n, d)
        for index in range(len(values)):
            empty = t[f"{prefix}out_elem{index}"][:, 0].isnan().any(1)  # (n,)
            assert torch.equal(mixed[index, empty], values[index, empty])
            out[index, empty], attention[index, empty] = torch.nan, torch.nan
            computed[f"{prefix}out_elem{index}"] = out[index][:, None]
            computed[f"{prefix}attn_weights_elem{index}"] = attention[index]
            computed[f"{prefix}value_resized_elem{index}"] = heads[index]
    compare_right(case, computed, left_out=("*batch*", "*attn_mask*"))


class StoredFeatures(torch.nn.Module):
    """A VFM that has already seen the images."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features, self.patch_size = features, 1

    def forward(self, images: Tensor) -> Tensor:
        return self.features


def clip(case: Case, name: str):
    config, state = case.model(name)
    options = {"quick_gelu": config["quick_gelu"], "epsilon": config["layer_norm_eps"]}
    return towers.clip(state, heads=config["heads"], **options)


def check_clip_dense(case: Case) -> None:
    given, t = case.settings, case.tensors
    tower, images = clip(case, given["weights"]), towers.images(case)
    tokens = tower.before_last_block(images)
    computed = {
        "pos_embed_used": tower.position_table(*given["clip_grid_rows_cols"]),
        "tokens_after_ln_pre": tower.embed(images),
        "tokens_before_last_block": tokens,
        "last_ln_1": tower.blocks[-1].ln_1(tokens),
        "out_no_ex": towers.method("clip", tower).embed(images).flatten(2).mT,
    }
    left_out = []
    for name in given["ex_grids"]:
        vfm, strength = StoredFeatures(t[f"ex_feats_{name}"]), {"beta": given["beta"], "gamma": given["gamma"]}
        out = towers.method("proxyclip", tower, vfm, **strength).embed(images).flatten(2).mT  # (B, N, E)
        computed |= {f"out_ex_{name}_elem{index}": image[None] for index, image in enumerate(out)}
        if len(images) == 1:
            computed[f"out_ex_{name}"] = out
        else:  # the published mean runs over the whole batch
            left_out += [f"out_ex_{name}", f"out_ex_{name}_rows_first"]
    compare_right(case, computed, tuple(left_out))


def check_vfm(case: Case) -> None:
    given, t = case.settings, case.tensors
    config, state = case.model(given["weights"])
    vfm = towers.vfm(config, state, crop=given.get("crop"))
    images = denormalise(t["image"], vfm.mean, vfm.std)
    computed = {"features": vfm(images)}
    if "pos_embed_used" in t:
        patches = vfm.position_table(*t["features"].shape[2:])[0]
        computed["pos_embed_used"] = torch.cat([t["pos_embed_used"][:1], patches])  # the class token's row first
    for name in t:
        if name.startswith("features_"):
            computed[name] = towers.vfm(config, state, features=name.removeprefix("features_"))(images)
    case.compare(computed, left_out=("cls_token", "image_resized", "block*_output"))


def check_segment(case: Case) -> None:
    given, t, weights = case.settings, case.tensors, case.settings["weights"]
    options = {name: given[name] for name in ("logit_scale", "beta", "gamma")}
    options |= {"crop": given["slide_crop"], "stride": given["slide_stride"]}
    vfm = towers.vfm(*case.model(weights["vfm"]), crop=options["crop"])
    model, text = towers.method("proxyclip", clip(case, weights["clip"]), vfm, **options), t["query_features"]
    model.encode_classes = lambda words: text
    _, owners = split_queries(class_lines(given["class_names_file"]))
    (image,) = towers.images(case)  # (3, H, W)
    boxes, paddings = boxes_and_paddings(model.windows, image.shape[1:])
    count = torch.zeros(image.shape[1:])
    for top, left, bottom, right in boxes:
        count[top:bottom, left:right] += 1
    computed = {"windows_y1x1y2x2": torch.tensor(boxes), "windows_pad_lrtb": torch.tensor(paddings)}
    computed |= {"window_count": count, "query_idx": torch.tensor(owners)}
    for index, crop in enumerate(cut(image, model.windows, model.padding_colour)):
        embeddings = model.embed(crop[None]).flatten(2).mT  # (1, n, E)
        results = {
            "imgs_norm": normalise(crop, vfm.mean, vfm.std)[None],
            "ex_feats": vfm(crop[None]),
            "image_features_normalised": F.normalize(embeddings, dim=2),
            "logits_before_upsampling": model.window_scores(crop[None], text),
        }
        computed |= {f"window{index}.{name}": value for name, value in results.items()}
    size, classes, each = given["ori_shape"], vocabulary(owners), vocabulary(range(len(owners)))
    computed["stitched_logits"] = predict(model, image, image.shape[1:], each, SCORES)[1][None]
    computed["final_logits"] = predict(model, image, size, each, SCORES)[1][None]
    rule = model.label_rule.with_threshold(given["prob_thd"])
    result, computed["class_probabilities"] = predict(model, image, size, classes, rule)
    assert torch.equal(result.confidence, computed["class_probabilities"].amax(0))
    computed["label"] = result.labels
    computed["label_without_data_samples"] = predict(model, image, image.shape[1:], classes, rule)[0].labels
    compare_right(case, computed)


def check_text_query_features(case: Case) -> None:
    given = case.settings
    config, state = case.model(given["weights"])
    if "token_embedding.rows" in state:  # the shipped case holds the rows of its own tokens only
        state["token_embedding.weight"] = all_rows(state["token_embedding.weight"], state.pop("token_embedding.rows"))
    quick, epsilon = config["activation"] == "QuickGELU", config["layer_norm_eps"]
    tower = towers.clip(text=state, text_heads=config["heads"], quick_gelu=quick, epsilon=epsilon)
    words = Vocabulary.parse(class_lines(given["class_names_file"]))
    assert (list(words.queries), list(words.class_of_query)) == (given["query_words"], given["query_idx"])
    templates = default_templates()
    assert len(templates) == given["n_templates"]
    prompts = [template.format(query) for query in words.queries for template in templates]
    shape = len(words.queries), len(templates), -1
    case.compare({
        "tokens": tower.tokenizer(prompts).view(shape),
        "template_features": encode_prompts(tower, prompts).view(shape),
        "query_features": encode_names(tower, words.queries, templates),
        "query_idx": torch.tensor(words.class_of_query),
    })  # fmt: skip


def check_class_name_file(case: Case) -> None:
    for example in case.settings["examples"]:
        names, indices = split_queries(class_lines(example["file_content"]))
        assert (list(names), list(indices)) == (example["class_names"], example["class_indices"])
        assert (len(names), max(indices) + 1) == (example["num_queries"], example["num_classes"])


def check_preprocess(case: Case) -> None:
    given, t, computed = case.settings, case.tensors, {}
    mean, std = ([value / 255 for value in given[key]] for key in ("mean", "std"))
    for sub in given["cases"]:
        name, (long, short) = sub["name"], sub["scale_long_short"]
        image = np.ascontiguousarray(t[f"{name}.image_bgr"].numpy()[..., ::-1])
        size = scaled_size(*image.shape[:2], short, long)
        assert list(size) == sub["resized_hw"]
        resized = resize(image, size)
        normalised = normalise(to_tensor(resized), mean, std)[None]
        computed[f"{name}.resized_bgr"] = torch.from_numpy(resized[..., ::-1].copy())
        computed[f"{name}.normalised"] = normalised
        computed[f"{name}.normalised_mean_per_channel"] = normalised.double().mean((0, 2, 3)).float()
        if (corner := t.get(f"{name}.normalised_corner")) is not None:
            computed[f"{name}.normalised_corner"] = normalised[..., : corner.shape[2], : corner.shape[3]]
    case.compare(computed, left_out=("*.image_bgr",))


def check_renormalise(case: Case) -> None:
    given, t = case.settings, case.tensors
    plain = denormalise(t["image_clip"], given["clip_mean"], given["clip_std"])
    imagenet = normalise(plain, given["imagenet_mean"], given["imagenet_std"])
    case.compare({"unnormalised": plain, "image_imagenet": imagenet})


def check_metric(case: Case) -> None:
    given, t = case.settings, case.tensors
    classes, matrix = given["num_classes"], 0
    for index in range(given["n_images"]):
        matrix += confusion(t[f"pred{index}"], t[f"label{index}"], classes, void=given["ignore_index"]).numpy()
    computed = scores(matrix)
    for key in ("aAcc", "mIoU", "mAcc"):
        assert round(computed[key], 2) == given[key], key
    for key in ("IoU", "Acc"):
        rounded = [None if value is None else round(value, 2) for value in computed["per_class"][key]]
        assert rounded == given[f"per_class_{key}_percent_rounded"]


KINDS = {
    "proxy_attention": check_proxy_attention,
    "clip_dense": check_clip_dense,
    "vfm": check_vfm,
    "segment": check_segment,
    "text_query_features": check_text_query_features,
    "class_name_file": check_class_name_file,
    "preprocess": check_preprocess,
    "renormalise": check_renormalise,
    "metric": check_metric,
}
