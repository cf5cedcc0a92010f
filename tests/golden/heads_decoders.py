"""Checks of the decoders alone: maps and queries layer by layer, predictions, losses, gradients, pseudo labels."""

import re

import torch
import torch.nn.functional as F
from golden import heads_models as models

from datasets.labels_for_training import UNLABELLED
from heads.losses import VOID, mask_loss, pixel_accuracy, pseudo_labels
from heads.mask_decoder import MaskAttention, MaskDecoder


def check_head(case):
    given, t = case.settings["hyperparameters"], case.tensors
    model, state = models.build(case), models.published(case)
    project = published_projection(state)
    models.load(model, state)
    features = [project(t[f"visual_{index}"]) for index in range(given["num_features"])]
    size = (given["img_size"],) * 2

    def logits(text):
        found = model.decode(tuple(features) if len(features) > 1 else features[0], t["cls"], text)
        return found if isinstance(found, dict) else {"decode": found}  # (B, K, h, w)

    def full(scores):
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)

    # In inference, published heads stop Sinkhorn's iteration for the whole batch, as in training; here each image has
    # its own stop. The published results are therefore those of training (without dropout), and inference is near.
    with torch.no_grad():
        alone = model.combine(logits(t["text"]))
    model.train()
    found = logits(t["text"])
    torch.testing.assert_close(alone, model.combine(found), atol=1e-4, rtol=0)
    both = full(model.combine(found))
    penalty_name = next(name for name in t if name.startswith("eval_pred_inductive_minus"))
    penalty = torch.zeros(given["num_all_classes"], 1, 1)
    penalty[given["seen_idx"]] = float(penalty_name.partition("minus")[2])
    computed = by_layer(model, features, t["cls"], t["text"])
    computed |= {"eval_d_input_lowres": found["decode"], "eval_sum_of_decoders_lowres": found["decode"]}
    computed |= {"train_pred_masks": full(found["decode"]), "eval_pred_masks": both, "transductive_pseudo_logits": both}
    computed |= {penalty_name: both.sigmoid() - penalty, "eval_pred_transductive_first_image": both.sigmoid()[:1]}
    if "score" in found:
        computed |= {"eval_score_map_lowres": found["score"], "train_score_map": full(found["score"])}
    if "text_fp16" in t:
        rounded = full(model.combine(logits(t["text_fp16"])))[:1]
        computed["eval_pred_from_text_fp16_first_image"] = rounded.sigmoid() - penalty
    if "gt" in t:
        computed |= training(case, model, logits)
    last = model.options.decoder_layers - 1  # what follows the masks of the last layer is not built here
    models.compare(case, computed, tuple(f"eval_decoder{index}_layer{last}_query" for index in (1, 2, 3)))
    if "initial_weights_s1_s2" in case.settings["values"]:
        start = torch.tensor(case.settings["values"]["initial_weights_s1_s2"])
        torch.testing.assert_close(models.build(case).weights.data, start.expand_as(model.weights))


def training(case, model, logits) -> dict[str, torch.Tensor]:
    """Labels, losses and gradients in the inductive and the transductive setting, and without any label."""
    given, t = case.settings["hyperparameters"], case.tensors
    ground_truth, seen, unseen = t["gt"][:, 0], given["seen_idx"], torch.tensor(given["unseen_idx"])
    labels = {setting: models.labels(case, ground_truth, setting) for setting in ("inductive", "transductive")}
    computed = {}
    for setting, remapped in labels.items():  # published: -1 for unseen classes, 255 for no label
        published = torch.where(ground_truth == models.IGNORED, models.IGNORED, remapped.clamp(min=-1))
        computed[f"gt_after_visible_mask_{setting}"] = published[:, None]
    scores = model.combine(logits(t["text"]))
    labels["transductive"] = pseudo_labels(scores, labels["transductive"], unseen, UNLABELLED)
    labels["all_ignored"] = torch.full_like(labels["inductive"], VOID)
    computed["inductive_gt_after_forward_train"] = with_ignored(labels["inductive"])
    computed["transductive_gt_final"] = with_ignored(labels["transductive"])
    for prefix in [name.removesuffix("decode.loss_mask") for name in t if name.endswith("decode.loss_mask")]:
        setting, weight = re.fullmatch(r"(\w+?)_(?:w(\d+)_)?", prefix).groups()
        model.zero_grad()
        predictions = logits(t["text"] if setting == "transductive" else t["text"][seen])
        losses = all_losses(predictions, labels[setting], *[float(weight)] if weight else [])
        losses["total"].backward()
        computed |= {prefix + name: value for name, value in losses.items()}
        for name in t:
            if name.startswith(f"{prefix}grad."):
                computed[name] = models.gradient(model, "decode_head." + name.removeprefix(f"{prefix}grad."))
    return computed


def published_projection(state):
    """The projection of patches to another width that some published configurations allow, taken out of the state."""
    parts = {name: state.pop(name) for name in [*state] if re.search(r"\.(input_proj|proj_norm)_1\.", name)}
    if not parts:
        return lambda patches: patches
    weight, bias, scale, shift = (
        parts[f"decode_head.{name}_1.{kind}"] for name in ("input_proj", "proj_norm") for kind in ("weight", "bias")
    )

    def project(patches):
        """(B, D, h, w) -> (B, E, h, w)."""
        return F.layer_norm(F.linear(patches.movedim(1, -1), weight, bias), scale.shape, scale, shift).movedim(-1, 1)

    return project


def by_layer(model, features, image, text) -> dict[str, torch.Tensor]:
    """Class queries, and queries and maps of the decoders' layers."""
    if not hasattr(model, "decoders"):
        descriptors, decoders, memories = [model.descriptor], [model.decoder], features
    else:  # a sum of weighted features for each decoder but the last
        descriptors, decoders, (*early, last) = model.descriptors, model.decoders, features
        memories, size = [], len(early) // len(model.weights)
        for group, weights in enumerate(model.weights):
            memories.append(sum(weight * early[group * size + index] for index, weight in enumerate(weights)))
        memories.append(last)
    computed = {}
    for number, (descriptor, decoder, memory) in enumerate(zip(descriptors, decoders, memories, strict=True)):
        start, memory = descriptor(image, text), memory.flatten(2).mT
        computed[f"eval_q_proj_{number}"] = start
        walk = mask_layers if isinstance(decoder, MaskDecoder) else sinkhorn_layers
        for layer, (queries, scores) in enumerate(walk(decoder, start, memory)):
            name = f"eval_decoder{number + 1}_layer{layer}"
            computed[f"{name}_attn"] = scores
            if queries is not None:
                computed[f"{name}_query"] = queries.movedim(0, -2)  # classes first, then prompts, then images
    return computed


def mask_layers(decoder, queries, memory):
    for attention, update in zip(decoder.attentions, decoder.updates, strict=True):
        scores = MaskAttention(attention)(queries, memory)
        queries = update(queries, attention(queries, memory))
        yield queries, scores
    yield None, decoder.masks(queries, memory)


def sinkhorn_layers(decoder, queries, memory):
    *earlier, last = decoder.attentions
    for attention, update in zip(earlier, decoder.updates, strict=True):
        scores, mixed = attention(queries, memory)
        queries = update(queries, mixed)
        yield queries, scores
    yield None, last(queries, memory)[0]


def all_losses(predictions, labels, mask_weight: float = 100.0, dice_weight: float = 1.0) -> dict[str, torch.Tensor]:
    """Losses and accuracy of every prediction and the sum of all losses, under the published names, each (1,)."""
    found, total = {}, 0
    for prediction, logits in predictions.items():
        for name, value in mask_loss(logits, labels, mask_weight, dice_weight).items():
            found[f"{prediction}.{name}"], total = value.reshape(1), total + value
        found[f"{prediction}.acc_seg"] = pixel_accuracy(logits, labels).reshape(1)
    return found | {"total": total.reshape(1)}


def with_ignored(labels):
    """Labels (B, H, W) as the published code holds them, (B, 1, H, W)."""
    return torch.where(labels < 0, models.IGNORED, labels)[:, None]
