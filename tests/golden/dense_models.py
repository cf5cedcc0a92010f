"""The towers, blocks and whole inferences of the reference cases of training-free methods."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from golden.cases import Case
from safetensors.torch import load_file
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.images import denormalise
from proxyclip.labels import LabelRule, small_classes
from proxyclip.methods import find_method
from proxyclip.methods._training_free import TrainingFree
from proxyclip.refine import pamr
from proxyclip.segmentor import Sample
from proxyclip.vocabulary import Vocabulary
from proxyclip.windows import SlidingWindows, cut

NO_TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}


def weights(case: Case, prefix: str = "visual.") -> dict[str, Tensor]:
    """The weights of a case whose names begin with `prefix`, without it."""
    file = case.settings["values"].get("weights_file", f"{case.file.stem}.weights.safetensors")
    state = load_file(case.file.parent / file)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def clip(case: Case) -> DenseCLIP:
    """The image tower of a case, in an open_clip model whose text tower is not used."""
    open_clip, given = import_library("open_clip"), case.settings["hyperparameters"]
    patch, width = given.get("patch", given.get("patch_size")), given["width"]
    vision = {"patch_size": patch, "width": width, "layers": given["layers"], "head_width": width // given["heads"]}
    size = given.get("image_size") or given.get("input_resolution")
    vision["image_size"] = size or given["table_grid"] * patch
    quick = given.get("activation", "QuickGELU") == "QuickGELU"
    model = open_clip.CLIP(given.get("out", given.get("output_dim")), vision, NO_TEXT, quick_gelu=quick)
    model.visual.load_state_dict(weights(case))
    return DenseCLIP(model.eval(), None, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, "tiny")


def attention(case: Case, prefix: str = "") -> SimpleNamespace:
    """A block that is nothing but an attention: its input is normalised already."""
    given = case.settings["hyperparameters"]
    layer = nn.MultiheadAttention(given["width"], given["heads"], batch_first=True)
    layer.load_state_dict(weights(case, prefix))
    return SimpleNamespace(attn=layer, ln_1=nn.Identity(), ls_1=nn.Identity())


def head0(mix, query: Tensor, key: Tensor) -> Tensor:
    """The attention matrix of the first head, (B, T, T): the identity as values shows what each token takes from
    which. mix: queries, keys and values -> mixed values."""
    batch, heads, tokens, _ = query.shape
    return mix(query, key, torch.eye(tokens).expand(batch, heads, tokens, tokens))[:, 0]


def method(name: str, tower: DenseCLIP, **options) -> TrainingFree:
    """A method with a tower that has no text encoder."""
    found = find_method(name)
    return found.Method(tower, None, found.Options(templates=("{}",), **options))


def patches(name: str, tower: DenseCLIP, images: Tensor, **options) -> Tensor:
    """A method's embeddings of all patches, (B, N, E)."""
    return method(name, tower, **options).embed(images).flatten(2).mT


def images(case: Case) -> Tensor:
    """The images of a case, (B, 3, H, W) in [0, 1]; they are stored as CLIP normalises them."""
    open_clip = import_library("open_clip")
    return denormalise(case.tensors["image"], open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def inference(case: Case, name: str, **options) -> dict[str, Tensor]:
    """A whole inference on one image, by its tensors' names; all that its json says of windows and areas is checked."""
    settings, t, tower = case.settings, case.tensors, clip(case)
    given, values = settings["hyperparameters"], settings["values"]
    options |= {"short_side": 0, "crop": given["slide_crop"], "stride": given["slide_stride"]}
    options |= {"logit_scale": given["logit_scale"], "area": given.get("area_thd") or 0.0}
    model, text = method(name, tower, **options), t["query_features"]
    model.encode_classes = lambda vocabulary: text
    if given["pamr"]:
        model.refinement = pamr.Refinement(pamr.Options(given["pamr"]["num_iter"], tuple(given["pamr"]["dilations"])))
    (image,) = images(case)  # (3, h, w)
    check_windows(model.windows, image.shape[1:], values)
    first = next(cut(image, model.windows, model.padding_colour))[None]  # (1, 3, c_h, c_w)
    scores = model.image_scores(image, text, 2)
    each = Vocabulary.parse([f"query {index}" for index in range(len(text))])
    classes = classes_of(t["query_idx"])

    def maps(size, vocabulary, rule) -> Tensor:
        keep = range(len(vocabulary.classes))
        found = model.decide(scores, image, Sample(image, size), vocabulary, rule=rule, keep=keep)
        return torch.stack([found.class_scores[index] for index in keep])[None]  # (1, K, H, W)

    size, rule = tuple(given["ori_shape"]), model.label_rule.with_threshold(given["prob_thd"])
    if rule.area:
        plain = model.decide(scores, image, Sample(image, size), classes, rule=LabelRule(scale=rule.scale)).labels
        check_areas(values, plain, rule.area, t["query_idx"])
    return {
        "window0.logits": F.interpolate(model.window_scores(first, text), first.shape[-2:], mode="bilinear"),
        "stitched_logits": maps(image.shape[1:], each, LabelRule(activation="none")),
        "final_logits": maps(size, each, LabelRule(activation="none")),
        "probabilities": maps(size, classes, rule),
        "label": model.predict(image, size, classes, given["prob_thd"], batch_windows=2).labels[None].byte(),
    }


def classes_of(owners: Tensor) -> Vocabulary:
    """Classes with as many names as they have queries."""
    names = [[f"query {q}" for q, owner in enumerate(owners) if owner == k] for k in range(int(owners.max()) + 1)]
    vocabulary = Vocabulary.parse(["; ".join(own) for own in names])
    assert list(vocabulary.class_of_query) == owners.tolist()
    return vocabulary


def check_windows(windows: SlidingWindows, size, values: dict) -> None:
    height, width = size
    side_h, side_w = windows.side(height), windows.side(width)
    starts = [(y, x) for y in windows.starts(height) for x in windows.starts(width)]
    assert [[y, x, y + side_h, x + side_w] for y, x in starts] == values["windows_y1x1y2x2"]
    paddings = values.get("windows_pad_lrtb", [[0, 0, 0, 0]] * len(starts))
    assert [[*windows.padding(width), *windows.padding(height)]] * len(starts) == paddings


def check_areas(values: dict, labels: Tensor, area: float, owners: Tensor) -> None:
    """Pixels of each class before the area rule, and the classes that it takes them from."""
    classes = int(owners.max()) + 1
    assert labels.flatten().bincount(minlength=classes).tolist() == values["area_counts_before_rule"]
    assert small_classes(labels, area, owners).nonzero().flatten().tolist() == values["classes_zeroed"]
