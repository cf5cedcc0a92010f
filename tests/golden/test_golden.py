"""The published implementation's outputs, case by case, within the tolerances of the reference data.

The shipped cases (tests/golden/data) always run; $GOLDEN_DIR adds more. Some shipped cases leave out large tensors.

Where the published code has a slip that is put right here, the tensors that hold the right result are compared:
non-square windows `*_rows_first` and `fixed.*`; batches `*_elemI`, one window at a time; rows without any entry, NaN
there, keep their own patch here, so only the other rows are compared.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import models
from golden.cases import SHIPPED, all_cases
from scored import score_images

from proxyclip.evaluation.metrics import ConfusionMatrix
from proxyclip.images import denormalise, normalise, resize, scaled_size, to_tensor
from proxyclip.labels import LabelRule, decide_labels
from proxyclip.methods.clip import CLIP
from proxyclip.methods.proxyclip import Options, ProxyCLIP, proxy_attend
from proxyclip.text import default_templates, encode_names, encode_prompts
from proxyclip.vocabulary import Vocabulary, class_lines, split_queries
from proxyclip.windows import Batches, SlidingWindows, axis_matrices, cut

CASES = all_cases("proxyclip")


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    assert got.shape == expected.shape, f"{what}: {tuple(got.shape)} instead of {tuple(expected.shape)}"
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0, msg=lambda text: f"{what}: {text}")


def check_proxy_attention(case):
    settings, t = case.settings, case.tensors
    rows, columns = settings["clip_grid_rows_cols"]
    width = settings["width"]
    weight, bias = t["attn.in_proj_weight"][2 * width :], t["attn.in_proj_bias"][2 * width :]
    for setting in settings["settings"]:
        prefix = f"s{setting['index']}."
        for image in range(t["x"].shape[1]):
            features = t["ex_feats"][image : image + 1]
            strength = setting["beta"], setting["gamma"]
            patches = t["x"][1:, image : image + 1].transpose(0, 1)  # (1, rows * columns, D)
            values = F.linear(patches, weight, bias).mT.unflatten(2, (rows, columns))  # (1, D, rows, columns)
            values = F.interpolate(values, features.shape[-2:], mode="bilinear").flatten(2).mT  # (1, N, D)
            mixed = proxy_attend(features, values, *strength)  # (1, N, D)
            out = F.linear(mixed, t["attn.out_proj.weight"], t["attn.out_proj.bias"])  # (1, N, D)
            name = f"{prefix}out_elem{image}"
            expected = t.get(f"{name}_rows_first", t[name]).transpose(0, 1)
            filled = ~expected.isnan().any(-1)  # (1, N): rows that the threshold leaves an entry
            close(out[filled], expected[filled], 1e-5, name)
            assert torch.equal(mixed[~filled], values[~filled])
        weights = t.get(f"{prefix}attn_weights_elem0")
        if weights is not None:
            unit = torch.eye(len(weights))[None]  # values that show the attention itself
            attention = proxy_attend(t["ex_feats"][:1], unit, setting["beta"], setting["gamma"])[0]
            filled = ~weights.isnan().any(-1)
            close(attention[filled], weights[filled], 1e-5, f"{prefix}attn_weights_elem0")


def check_clip_dense(case):
    settings, t = case.settings, case.tensors
    clip = models.clip(case, settings["weights"])
    images = denormalise(t["image"], clip.mean, clip.std)
    grid = clip.grid(images)
    assert grid == tuple(settings["clip_grid_rows_cols"])
    close(clip.position_table(*grid), t["pos_embed_used"], 2e-5, "pos_embed_used")
    close(clip.embed(images), t["tokens_after_ln_pre"], 2e-5, "tokens_after_ln_pre")
    tokens = clip.before_last_block(images)
    close(tokens, t["tokens_before_last_block"], 2e-5, "tokens_before_last_block")
    close(clip.visual.transformer.resblocks[-1].ln_1(tokens), t["last_ln_1"], 2e-5, "last_ln_1")
    close(CLIP(clip, None, Options(templates=("{}",))).embed(images).flatten(2).mT, t["out_no_ex"], 2e-5, "out_no_ex")
    for name in settings["ex_grids"]:
        features = t[f"ex_feats_{name}"]
        options = Options(beta=settings["beta"], gamma=settings["gamma"], templates=("{}",))
        out = ProxyCLIP(clip, features_only(features), options).embed(images).flatten(2).mT  # (B, N, E)
        expected = t.get(f"out_ex_{name}_rows_first", t[f"out_ex_{name}"])
        if len(images) > 1:  # the published mean runs over the whole batch; alone, an image has its own
            expected = torch.cat([t[f"out_ex_{name}_elem{index}"] for index in range(len(images))])
        close(out, expected, 2e-5, f"out_ex_{name}")


def features_only(features: torch.Tensor) -> torch.nn.Module:
    """A VFM that has already seen the images."""
    module = torch.nn.Module()
    module.patch_size, module.forward = 1, lambda images: features
    return module


def check_vfm(case):
    settings, t = case.settings, case.tensors
    vfm = models.vfm(case, settings["weights"], window=settings.get("crop"))
    images = denormalise(t["image"], vfm.mean, vfm.std)
    tolerance = {"mae": 4e-5, "sam": 1e-4}.get(settings["vfm"], 2e-5)
    close(vfm(images), t["features"], tolerance, "features")
    if "pos_embed_used" in t:  # the class token's row first
        close(vfm.position_table(*t["features"].shape[-2:])[0], t["pos_embed_used"][1:], tolerance, "pos_embed_used")
    for kind in ("q", "k", "v"):
        if f"features_{kind}" in t:
            vfm = models.vfm(case, settings["weights"], features=kind)
            close(vfm(images), t[f"features_{kind}"], tolerance, f"features_{kind}")


def check_segment(case):
    settings, t = case.settings, case.tensors
    fixed = "fixed." if "fixed.label" in t else ""
    clip = models.clip(case, settings["weights"]["clip"])
    options = Options(
        crop=settings["slide_crop"], stride=settings["slide_stride"], logit_scale=settings["logit_scale"],
        beta=settings["beta"], gamma=settings["gamma"], templates=("{}",),
    )  # fmt: skip
    vfm = models.vfm(case, settings["weights"]["vfm"], window=options.crop)
    model = ProxyCLIP(clip, vfm, options)
    windows, colour = model.windows, model.padding_colour
    _, class_of_query = split_queries(class_lines(settings["class_names_file"]))
    assert list(class_of_query) == t["query_idx"].tolist()
    image = denormalise(t["image"], clip.mean, clip.std)[0]  # (3, H, W)
    crops = list(cut(image, windows, colour))
    if "windows_y1x1y2x2" in t:
        check_windows(windows, settings["image_hw"], t["windows_y1x1y2x2"], t["windows_pad_lrtb"])
    if "window0.imgs_norm" in t:
        close(normalise(crops[0], vfm.mean, vfm.std)[None], t["window0.imgs_norm"], 1e-5, "imgs_norm")

    first = crops[0][None]
    features = vfm(first)
    close(features, t[f"{fixed}window0.ex_feats"], 1e-4 if settings["vfm"] == "sam" else 4e-5, "ex_feats")
    unit = F.normalize(model.embed(first), dim=1).flatten(2).mT  # (1, N, E)
    close(unit, t[f"{fixed}window0.image_features_normalised"], 5e-6, "image_features_normalised")
    for index, crop in enumerate(crops):
        expected = t[f"{fixed}window{index}.logits_before_upsampling"]
        close(model.window_scores(crop[None], t["query_features"]), expected, 5e-6, f"window {index} logits")

    def scores(crops):
        return model.window_scores(crops, t["query_features"])

    found = next(score_images(scores, [image], windows, colour, Batches(2)))
    (view,) = found.views
    if "stitched_logits" in t:
        close(stitched(view, view.size)[None], t[f"{fixed}stitched_logits"], 5e-6, "stitched_logits")
    size = tuple(settings["ori_shape"])
    if "final_logits" in t:
        close(stitched(view, size)[None], t[f"{fixed}final_logits"], 5e-6, "final_logits")

    rule = LabelRule(scale=settings["logit_scale"], threshold=settings["prob_thd"])
    classes, owners = range(max(class_of_query) + 1), torch.tensor(class_of_query)
    labels, confidence, class_scores = decide_labels(found, size, rule, owners, keep=classes)
    assert torch.equal(labels, t[f"{fixed}label"].long()), "label"
    probabilities = torch.stack([class_scores[index] for index in classes])  # (K, H, W)
    close(probabilities, t[f"{fixed}class_probabilities"], 5e-5, "class_probabilities")
    close(confidence, t[f"{fixed}class_probabilities"].amax(0), 5e-5, "confidence")
    if "label_without_data_samples" in t:
        labels = decide_labels(found, view.size, rule, owners).labels
        assert torch.equal(labels, t["label_without_data_samples"].long()), "label_without_data_samples"


def check_windows(windows: SlidingWindows, size, places, paddings) -> None:
    (height, width) = size
    side_h, side_w = windows.side(height), windows.side(width)
    starts = [(y, x) for y in windows.starts(height) for x in windows.starts(width)]
    assert [[y, x, y + side_h, x + side_w] for y, x in starts] == places.tolist()
    assert [[*windows.padding(width), *windows.padding(height)]] * len(starts) == paddings.tolist()


def stitched(view, size) -> torch.Tensor:
    """The full score maps (Q, H, W), which the engine itself never holds."""
    down, across = (matrix(view, axis, size[axis]) for axis in (0, 1))
    return torch.einsum("hr,rqc,wc->qhw", down, view.scores, across)


def matrix(view, axis: int, out: int) -> torch.Tensor:
    """(out, scores of the axis): the weights of every score in every pixel."""
    grid = view.scores.shape[2 * axis]
    upsample, place = axis_matrices(
        view.windows, length=view.size[axis], grid=grid, window=None, out=out, sigmoid=False
    )
    taps = place.after(upsample)
    return torch.zeros(out, grid, dtype=torch.float64).scatter_add_(1, taps.columns, taps.values).float()


def check_text_query_features(case):
    settings, t = case.settings, case.tensors
    clip = models.text_clip(case, settings["weights"])
    vocabulary = Vocabulary.parse(class_lines(settings["class_names_file"]))
    assert list(vocabulary.queries) == settings["query_words"]
    assert list(vocabulary.class_of_query) == settings["query_idx"]
    templates = default_templates()
    assert len(templates) == settings["n_templates"]
    prompts = [template.format(query) for query in vocabulary.queries for template in templates]
    if "tokens" in t:
        assert torch.equal(clip.tokenizer(prompts).view_as(t["tokens"]).int(), t["tokens"])
        features = encode_prompts(clip, prompts).view_as(t["template_features"])
        close(features, t["template_features"], 1e-5, "template_features")
    close(encode_names(clip, vocabulary.queries, templates), t["query_features"], 1e-5, "query_features")


def check_class_name_file(case):
    for example in case.settings["examples"]:
        names, indices = split_queries(class_lines(example["file_content"]))
        assert list(names) == example["class_names"]
        assert list(indices) == example["class_indices"]
        assert len(names) == example["num_queries"]
        assert max(indices) + 1 == example["num_classes"]


def check_preprocess(case):
    settings, t = case.settings, case.tensors
    mean, std = ([value / 255 for value in settings[key]] for key in ("mean", "std"))
    for sub in settings["cases"]:
        name = sub["name"]
        image = np.ascontiguousarray(t[f"{name}.image_bgr"].numpy()[..., ::-1])
        long, short = sub["scale_long_short"]
        size = scaled_size(*image.shape[:2], short, long)
        assert list(size) == sub["resized_hw"]
        resized = resize(image, size)
        assert np.array_equal(resized[..., ::-1], t[f"{name}.resized_bgr"].numpy()), f"{name}: resized bytes differ"
        normalised = normalise(to_tensor(resized), mean, std)
        for part, expected in t.items():
            if part == f"{name}.normalised":
                close(normalised[None], expected, 1e-5, part)
            elif part == f"{name}.normalised_corner":
                close(normalised[None, :, : expected.shape[2], : expected.shape[3]], expected, 1e-5, part)
            elif part == f"{name}.normalised_mean_per_channel":
                close(normalised.double().mean((1, 2)).float(), expected, 1e-5, part)


def check_renormalise(case):
    settings, t = case.settings, case.tensors
    plain = denormalise(t["image_clip"], settings["clip_mean"], settings["clip_std"])
    close(plain, t["unnormalised"], 1e-5, "unnormalised")
    imagenet = normalise(plain, settings["imagenet_mean"], settings["imagenet_std"])
    close(imagenet, t["image_imagenet"], 1e-5, "image_imagenet")


def check_metric(case):
    settings, t = case.settings, case.tensors
    matrix = ConfusionMatrix(settings["num_classes"])
    for index in range(settings["n_images"]):
        matrix.add(t[f"pred{index}"], t[f"label{index}"], void=settings["ignore_index"])
    scores = matrix.scores()
    for key in ("aAcc", "mIoU", "mAcc"):
        assert round(scores[key], 2) == settings[key], key
    for key in ("IoU", "Acc"):
        expected = settings[f"per_class_{key}_percent_rounded"]
        assert [None if value is None else round(value, 2) for value in scores["per_class"][key]] == expected


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


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.inference_mode()
def test_golden(case, tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYCLIP_CACHE", str(tmp_path))
    kinds = [kind for kind in KINDS if case.file.stem.startswith(kind)]
    assert kinds, f"{case.file.stem} is a case of unknown kind; known: {', '.join(KINDS)}"
    KINDS[kinds[0]](case)


def test_every_kind_of_case_is_shipped():
    shipped = [file.stem for file in (SHIPPED / "proxyclip").glob("*.json")]
    assert all(any(stem.startswith(kind) for stem in shipped) for kind in KINDS)
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 5_000_000


def test_golden_dir_replaces_shipped_cases_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("GOLDEN_DIR", raising=False)
    shipped = all_cases("proxyclip")
    (tmp_path / "proxyclip").mkdir()
    for name in ("metric.json", "another.json"):
        (tmp_path / "proxyclip" / name).write_text("{}")
    monkeypatch.setenv("GOLDEN_DIR", str(tmp_path))
    cases = all_cases("proxyclip")
    assert len(cases) == len(shipped) + 1
    assert [case.file.stem for case in cases if case.settings == {}] == ["another", "metric"]
