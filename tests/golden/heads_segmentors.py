"""Checks of whole models: sliding windows, label maps, text embeddings, one training step, and what is trained."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from golden import heads_models as models
from golden.heads_decoders import all_losses
from golden.models import IMAGENET

from datasets.labels_for_training import UNLABELLED
from heads.head import Options
from heads.losses import pseudo_labels
from proxyclip.images import denormalise
from proxyclip.labels import LabelRule, decide_labels
from proxyclip.vocabulary import Vocabulary


def check_segmentor(case, folder):
    settings, t = case.settings, case.tensors
    given, state = settings["hyperparameters"], models.published(case)
    np.save(folder / "text.npy", t["text"].numpy())
    penalty = 0.0 if given["self_training"] else Options().seen_penalty
    model = models.build(case, text_embeddings=str(folder / "text.npy"), seen_penalty=penalty)
    models.load(model, state)
    vocabulary = Vocabulary.parse(model.classes)
    text = model.encode_classes(vocabulary)
    assert torch.equal(text, t["text"])
    computed = {}
    with torch.no_grad():
        image = denormalise(t["image"], *IMAGENET)[0]  # (3, H, W)
        size, crop = tuple(given["ori_shape"]), given["crop"]
        scores = model.image_scores(image, text)
        for name, source, shape in (
            ("slide_no_rescale", scores, tuple(given["image_hw"])),
            ("slide_rescaled", scores, size),
            ("first_crop", model.image_scores(image[:, :crop, :crop], text), (crop, crop)),
        ):
            computed[name] = class_maps(model, source, shape, model.label_rule)
        # The published code ends with a softmax over the scores of the classes, which cannot change the labels.
        softmax = class_maps(model, scores, size, replace(model.label_rule, activation="softmax"))
        computed["inference_softmax_sub4"] = softmax[..., ::4, ::4]
        computed["label_map"] = model.predict(image, size, vocabulary).labels[None]
        if "tokens" in t:
            computed["text_embedding_of_tokens"] = F.normalize(model.clip.encode_text(t["tokens"]), dim=-1)
    if "train_image" in t:
        computed |= training_step(case, model.train(), text)
    models.compare(case, computed)
    check_trained(settings["values"], model, state)


def class_maps(model, scores, size, rule: LabelRule) -> torch.Tensor:
    """The scores of all classes, (1, K, H, W)."""
    penalty = dict(rule.subtract)
    subtract = torch.tensor([penalty.get(name, 0.0) for name in model.classes])
    found = decide_labels(scores, size, rule, torch.arange(len(subtract)), subtract=subtract, keep=range(len(subtract)))
    return torch.stack([found.class_scores[index] for index in range(len(subtract))])[None]


def training_step(case, model, text) -> dict[str, torch.Tensor]:
    """Losses, and gradients of some parameters."""
    given, t = case.settings["hyperparameters"], case.tensors
    setting = "transductive" if given["self_training"] else "inductive"
    labels = models.labels(case, t["train_gt"][:, 0], setting)
    predictions = model(
        denormalise(t["train_image"], *IMAGENET), text if given["self_training"] else text[given["seen_idx"]]
    )
    if given["self_training"]:
        labels = pseudo_labels(model.combine(predictions), labels, torch.tensor(given["unseen_idx"]), UNLABELLED)
    weights = given["loss_weights"]
    losses = all_losses(predictions, labels, weights["mask"], weights["dice"])
    losses["total"].backward()
    gradients = [name for name in t if name.startswith("train_grad.")]
    return {f"train_{name}": value for name, value in losses.items()} | {
        name: models.gradient(model, name.removeprefix("train_grad.")) for name in gradients
    }


def check_trained(facts, model, state) -> None:
    """The same parameters are trained and frozen as in the published code."""
    own = {name for name, parameter in model.named_parameters() if not name.startswith("clip.")}
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained, frozen = models.split(model, chosen(state, facts["trainable_parameters"]))
    assert set(trained) == wanted and not frozen
    kept, frozen = models.split(model, chosen(state, facts["frozen_parameters"]))
    assert set(kept) == own - wanted
    assert not any(model.clip.model.get_parameter(name).requires_grad for name in frozen)


def chosen(state, names):
    return {name: state[name] for name in names if name in state}
