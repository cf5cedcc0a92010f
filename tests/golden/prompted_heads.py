"""ZegCLIP, OTSeg and Cascade-CLIP: the encoder with prompts, the decoders with their losses, and whole models.

A case has the weights of what it is about under their published names.
"""

import copy
import re
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from golden import towers
from golden.cases import Case
from golden.label_maps import predict
from statistics_of_images import denormalise
from torch import Tensor, nn

from datasets.augment import UNLABELLED, LabelTable
from heads import cascade_clip, otseg, zegclip
from heads.head import Options, TrainableHead
from heads.losses import VOID, mask_loss, pixel_accuracy, pseudo_labels
from heads.mask_decoder import MaskAttention, MaskDecoder
from heads.otseg import SinkhornAttention, iterations_needed, transport_plan
from heads.prompted_encoder import MEAN, STD, PromptedEncoder
from heads.published import own_name, own_weights
from proxyclip.vocabulary import Vocabulary

REPOSITORIES = {"ZegCLIP": zegclip, "OTSeg": otseg, "Cascade-CLIP": cascade_clip}
IGNORED = 255  # in published labels
PARTS = {  # published parameters that are rows of one here
    "backbone.prompt_embeddings": ("encoder.prompts", slice(0, 1)),
    "backbone.deep_prompt_embeddings": ("encoder.prompts", slice(1, None)),
    "decode_head.weights_s1": ("weights", 0),
    "decode_head.weights_s2": ("weights", 1),
}


def build(case: Case, **options) -> TrainableHead:
    """The head of a case without dropout, with CLIP's weights but not yet its own.

    A case about decoders says nothing of an encoder: any will do that has as many blocks and as wide embeddings.
    """
    given, state = case.hyperparameters, case.weights()
    module = REPOSITORIES[case.settings["source"]["repo"].split("/")[1]]
    _, frozen = split(state, name_of(module.Head))
    if frozen:
        visual = {n.removeprefix("visual."): value for n, value in frozen.items() if n.startswith("visual.")}
        text = {name: value for name, value in frozen.items() if not name.startswith("visual.")}
        text_heads = given["text_encoder"]["heads"] if text else 1
        clip = towers.clip(visual, text, heads=given["heads"], text_heads=text_heads)
        size = given.get("crop", given["input_resolution"])
    else:
        clip = towers.clip(joint=given["embed_dims"], image_shape={"layers": given["num_features"]})
        size = given["img_size"]
    options |= {"image_size": size, "short_side": 0, "crop": size, "stride": given.get("stride", size), "dropout": 0.0}
    options |= {"prompts": given.get("num_tokens", 1), "prompt_blocks": given.get("total_d_layer")}
    if "num_layers" in given:  # with a decoder
        options["decoder_layers"] = given["num_layers"]
        options["decoder_heads"] = given.get("num_heads", given.get("heads"))
    else:
        options |= {"decoder_layers": 1, "decoder_heads": 1}
    if count := given.get("num_prompts"):
        options["templates"] = tuple(f"prompt {index} of a {{}}" for index in range(count))
    if module is cascade_clip:
        options["levels"] = tuple(given.get("out_indices", range(given.get("num_features", 0) - 1)))
        options["group_size"] = len(state.get("decode_head.weights_s1", [None]))
    classes, seen = names(case)
    return module.Head(clip, module.Options(**options), classes, seen).eval()


def split(state: towers.State, head: str) -> tuple[towers.State, towers.State]:
    """A published state as weights that are trained, and those of CLIP under open_clip's names."""
    named = own_weights(state, head)
    frozen = {name.removeprefix("clip.model."): value for name, value in named.items() if name.startswith("clip.")}
    return {name: value for name, value in named.items() if not name.startswith("clip.")}, frozen


def name_of(kind: type[TrainableHead]) -> str:
    return kind.__module__.rpartition(".")[2]


def names(case: Case) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of all classes and of the seen ones; a case has their numbers only."""
    given = case.hyperparameters
    classes = tuple(f"class {index}" for index in range(given.get("num_all_classes", 1)))
    return classes, tuple(classes[index] for index in given.get("seen_idx", ()))


def load(model: TrainableHead, state: towers.State) -> TrainableHead:
    """Loads what is trained of a published state dict: every name must be known, and of encoder and decoder, each that
    it holds must be complete."""
    own = set(model.trained()) - {"stored_text"}
    trained, _ = split(state, name_of(type(model)))
    of_encoder = {name for name in own if name.startswith(("encoder.", "level_"))}
    wanted = of_encoder if any(name.startswith("backbone.") for name in state) else set()
    if any(name.startswith("decode_head.") for name in state):
        wanted |= own - of_encoder
    assert trained.keys() == wanted
    model.load_state_dict(trained, strict=False)
    return model


def gradient(model: TrainableHead, name: str) -> Tensor:
    """The gradient of a parameter, by its published name."""
    last = model.options.decoder_layers - 1
    own, rows = PARTS.get(name) or (own_name(name, name_of(type(model)), last), slice(None))
    return dict(model.named_parameters())[own].grad[rows]


def training_labels(case: Case, ground_truth: Tensor, setting: str) -> Tensor:
    """Labels for training (B, H, W) in one of the settings, from the labels of all classes."""
    table = getattr(LabelTable, setting)(*names(case))
    known = torch.where(ground_truth == IGNORED, VOID, ground_truth.int()).numpy()
    return torch.from_numpy(np.stack([table(label) for label in known]))


def all_losses(predictions, labels, mask_weight: float = 100.0, dice_weight: float = 1.0) -> dict[str, Tensor]:
    """Losses and accuracy of every prediction and the sum of all losses, under the published names, each (1,)."""
    results, total = {}, 0
    for prediction, logits in predictions.items():
        for name, value in mask_loss(logits, labels, mask_weight, dice_weight).items():
            results[f"{prediction}.{name}"], total = value.reshape(1), total + value
        results[f"{prediction}.acc_seg"] = pixel_accuracy(logits, labels).reshape(1)
    return results | {"total": total.reshape(1)}


def check_backbone(case: Case) -> None:
    given, t = case.hyperparameters, case.tensors
    model = load(build(case), case.weights())
    visual, encoder = model.clip.visual, model.encoder
    bare = copy.deepcopy(visual)
    bare.ln_pre = nn.Identity()
    computed, own_prompts = {}, []
    for size in [name.removeprefix("image_") for name in t if name.startswith("image_")]:
        images = denormalise(t[f"image_{size}"], MEAN, STD)
        steps = list(encoder.walk(visual, images))
        seen_by_last = steps[-1].shape[1] + prompts_of_last_block(encoder, len(steps))
        assert seen_by_last == case.values["num_tokens_seen_by_last_block"][size]
        computed[f"tokens_before_ln_pre_{size}"] = encoder.embed(bare, images)
        for block, tokens in (("block0", steps[0]), ("last_block", steps[-1])):
            # What leaves a block in the places of its own prompts is part of no result, and is not computed here.
            name, others = f"{block}_out_{size}", tokens.shape[1] - 1
            own_prompts.append(name)
            if name in t:
                expected = torch.cat([t[name][:1], t[name][-others:]])  # (T, B, D)
                case.assert_close(name, tokens.transpose(0, 1), expected)
        if isinstance(model, cascade_clip.Head):
            encoded = encoder(visual, images, model.options.levels)
            features = [*model.features(encoded), encoded.patches]
        else:
            encoded = encoder(visual, images)
            features = [encoded.patches]
            if len(given["out_indices"]) > 1:  # then the published encoder returns tokens as they leave the blocks
                grid = encoded.patches.shape[2:]
                features = [steps[index][:, -grid.numel() :].mT.unflatten(2, grid) for index in given["out_indices"]]
        computed |= {f"feature_{index}_{size}": feature for index, feature in enumerate(features)}
        computed[f"global_embedding_{size}"] = encoded.image
    case.compare(computed, left_out=tuple(own_prompts))


def prompts_of_last_block(encoder: PromptedEncoder, blocks: int) -> int:
    """Those that end with it, and are not among the tokens that leave it."""
    last = blocks - 1 - encoder.first
    return 0 if encoder.keep or last >= len(encoder.prompts) else encoder.prompts.shape[1]


def check_position_table(case: Case) -> None:
    """With patches, class token and norm out of the way, embedded tokens are the position table itself."""
    given, t, computed = case.hyperparameters, case.tensors, {}
    patch = given["patch_size"]
    shape = {"patch_size": patch, "image_size": given["source_grid"] * patch, "width": given["width"]}
    visual = towers.clip(joint=1, image_shape=shape | {"head_width": given["width"]}).visual
    visual.positional_embedding.data = t["checkpoint.visual.positional_embedding"]
    visual.conv1.weight.data.zero_()
    visual.class_embedding.data.zero_()
    visual.ln_pre = nn.Identity()
    for name in t:
        if match := re.fullmatch(r"positional_embedding_grid(\d+)_every(\d+)th_channel", name):
            size, step = int(match[1]) * patch, int(match[2])
            encoder = PromptedEncoder(visual, prompts=1, prompt_blocks=0, dropout=0.0, image_size=size)
            computed[name] = encoder.embed(visual, torch.zeros(1, 3, size, size))[0, :, ::step]  # (1 + h * w, D / step)
    case.compare(computed)


def check_sinkhorn(case: Case) -> None:
    given, t, computed = case.hyperparameters, case.tensors, {}
    for index in [name.removeprefix("cost_") for name in t if name.startswith("cost_")]:
        cost, rows, columns = t[f"cost_{index}"].requires_grad_(), t[f"mu_{index}"], t[f"nu_{index}"]
        stop = {"threshold": given["thresh"], "iterations": given["max_iter"], "epsilon": case.values[f"eps_{index}"]}
        assert iterations_needed(cost.detach(), rows, columns, **stop) == case.values[f"iterations_{index}"]
        plan = transport_plan(cost, rows, columns, **stop)
        (cost[0].numel() * (plan * t[f"grad_weight_{index}"]).sum()).backward()
        computed |= {f"plan_{index}": plan, f"grad_cost_{index}": cost.grad}
        errors = torch.stack([(plan.sum(2) - rows).abs().max(), (plan.sum(1) - columns).abs().max()]).detach()
        name = f"marginal_error_{index}"
        case.assert_close(name, errors, torch.tensor(case.values[name]))
    case.compare(computed)


def check_sinkhorn_attention(case: Case) -> None:
    given, t = case.hyperparameters, case.tensors
    attention = SinkhornAttention(given["dim"], dropout=0.0).train()  # the published iteration stops for all at once
    own = {"q": "query", "k": "key", "v": "value", "proj": "projection"}
    parts = ((*name.split("."), value) for name, value in case.weights().items())
    attention.load_state_dict({f"{own[part]}.{kind}": value for part, kind, value in parts})
    queries, memory = t["xq"].permute(2, 1, 0, 3), t["xk"]  # (B, K, P, E), (B, M, E)
    scores, mixed = attention(queries, memory)
    case.compare({"out": mixed.permute(1, 2, 0, 3), "attn_save": scores})

    query, key = (F.normalize(part, dim=-1) for part in (attention.query(queries), attention.key(memory)))
    cost = 1 - torch.einsum("bkpe,bme->bkmp", query, key).flatten(0, 1)  # (B * K, M, P)
    uniform = (torch.full(cost.shape[:2], 1 / cost.shape[1]), torch.full(cost[:, 0].shape, 1 / cost.shape[2]))
    assert iterations_needed(cost, *uniform, epsilon=given["eps"]) == case.values["iterations"]


def check_head(case: Case) -> None:
    """A decoder alone: maps and queries layer by layer, predictions, losses, gradients, pseudo labels."""
    given, t, state = case.hyperparameters, case.tensors, case.weights()
    project = published_projection(state)
    model = load(build(case), state)
    features = [project(t[f"visual_{index}"]) for index in range(given["num_features"])]

    def logits(text: Tensor, images: slice = slice(None)) -> dict[str, Tensor]:
        """(B, K, h, w) of each prediction."""
        levels = tuple(level[images] for level in features)
        result = model.decode(levels if len(levels) > 1 else levels[0], t["cls"][images], text)
        return result if isinstance(result, dict) else {"decode": result}

    def full(scores: Tensor) -> Tensor:
        return F.interpolate(scores, (given["img_size"],) * 2, mode="bilinear", align_corners=False)

    # In inference, published heads stop Sinkhorn's iteration for the whole batch, as in training; here each image has
    # its own stop. The published results are therefore those of training (without dropout).
    with torch.no_grad():
        inferred = model.combine(logits(t["text"]))
        model.train()
        alone = [model.combine(logits(t["text"], slice(i, i + 1))) for i in range(len(inferred))]
    torch.testing.assert_close(inferred, torch.cat(alone))
    predictions = logits(t["text"])
    both = full(model.combine(predictions))
    computed = by_layer(model, features, t["cls"], t["text"])
    computed |= {"eval_d_input_lowres": predictions["decode"], "eval_sum_of_decoders_lowres": predictions["decode"]}
    computed |= {"train_pred_masks": full(predictions["decode"]), "eval_pred_masks": both}
    computed |= {"transductive_pseudo_logits": both, "eval_pred_transductive_first_image": both.sigmoid()[:1]}
    if "score" in predictions:
        computed |= {"eval_score_map_lowres": predictions["score"], "train_score_map": full(predictions["score"])}
    for name in [name for name in t if name.startswith("eval_pred_inductive_minus")]:
        penalty = torch.zeros(given["num_all_classes"], 1, 1)
        penalty[given["seen_idx"]] = float(name.partition("minus")[2])
        computed[name] = both.sigmoid() - penalty
        if "text_fp16" in t:
            rounded = full(model.combine(logits(t["text_fp16"])))[:1]
            computed["eval_pred_from_text_fp16_first_image"] = rounded.sigmoid() - penalty
    if "gt" in t:
        computed |= training(case, model, logits)
    last = model.options.decoder_layers - 1  # what follows the masks of the last layer is not built here
    case.compare(computed, left_out=(f"eval_decoder*_layer{last}_query",))
    if start := case.values.get("initial_weights_s1_s2"):
        weights = build(case).weights.detach()
        case.assert_close("initial_weights_s1_s2", weights, torch.tensor(start).expand_as(weights))


def training(case: Case, model: TrainableHead, logits) -> dict[str, Tensor]:
    """Labels, losses and gradients in the inductive and the transductive setting, and without any label."""
    given, t, computed = case.hyperparameters, case.tensors, {}
    ground_truth, seen, unseen = t["gt"][:, 0], given["seen_idx"], torch.tensor(given["unseen_idx"])
    labels = {setting: training_labels(case, ground_truth, setting) for setting in ("inductive", "transductive")}
    for setting, remapped in labels.items():  # published: -1 for unseen classes, 255 for no label
        published = torch.where(ground_truth == IGNORED, IGNORED, remapped.clamp(min=-1))
        computed[f"gt_after_visible_mask_{setting}"] = published[:, None]
    scores = model.combine(logits(t["text"]))
    labels["transductive"] = pseudo_labels(scores, labels["transductive"], unseen, UNLABELLED)
    labels["all_ignored"] = torch.full_like(labels["inductive"], VOID)
    for setting, name in (("inductive", "inductive_gt_after_forward_train"), ("transductive", "transductive_gt_final")):
        computed[name] = torch.where(labels[setting] < 0, IGNORED, labels[setting])[:, None]
    for prefix in [name.removesuffix("decode.loss_mask") for name in t if name.endswith("decode.loss_mask")]:
        setting, weight = re.fullmatch(r"(\w+?)_(?:w(\d+)_)?", prefix).groups()
        model.zero_grad()
        predictions = logits(t["text"] if setting == "transductive" else t["text"][seen])
        losses = all_losses(predictions, labels[setting], *[float(weight)] if weight else [])
        losses["total"].backward()
        computed |= {prefix + name: value for name, value in losses.items()}
        for name in t:
            if name.startswith(f"{prefix}grad."):
                computed[name] = gradient(model, "decode_head." + name.removeprefix(f"{prefix}grad."))
    return computed


def published_projection(state: towers.State):
    """The projection of patches to another width that some published configurations allow, taken out of the state."""
    parts = {name: state.pop(name) for name in [*state] if re.search(r"\.(input_proj|proj_norm)_1\.", name)}
    if not parts:
        return lambda patches: patches
    weight, bias, scale, shift = (
        parts[f"decode_head.{name}_1.{kind}"] for name in ("input_proj", "proj_norm") for kind in ("weight", "bias")
    )

    def project(patches: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, E, h, w)."""
        return F.layer_norm(F.linear(patches.movedim(1, -1), weight, bias), scale.shape, scale, shift).movedim(-1, 1)

    return project


def by_layer(model: TrainableHead, features: list[Tensor], image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Class queries, and queries and maps of the decoders' layers."""
    if not hasattr(model, "decoders"):
        descriptors, decoders, memories = [model.descriptor], [model.decoder], features
    else:  # a sum of weighted features for each decoder but the last
        descriptors, decoders, (*early, last) = model.descriptors, model.decoders, features
        groups = torch.stack(early).unflatten(0, model.weights.shape)  # (groups, group_size, B, E, h, w)
        memories = [*torch.einsum("gs,gsbehw->gbehw", model.weights, groups), last]
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


def mask_layers(decoder, queries: Tensor, memory: Tensor):
    for attention, update in zip(decoder.attentions, decoder.updates, strict=True):
        scores = MaskAttention(attention)(queries, memory)
        queries = update(queries, attention(queries, memory))
        yield queries, scores
    yield None, decoder.masks(queries, memory)


def sinkhorn_layers(decoder, queries: Tensor, memory: Tensor):
    *earlier, last = decoder.attentions
    for attention, update in zip(earlier, decoder.updates, strict=True):
        scores, mixed = attention(queries, memory)
        queries = update(queries, mixed)
        yield queries, scores
    yield None, last(queries, memory)[0]


def check_segmentor(case: Case) -> None:
    """A whole model: sliding windows, label maps, text embeddings, one training step, and what is trained."""
    given, t, state = case.hyperparameters, case.tensors, case.weights()
    penalty = 0.0 if given["self_training"] else Options().seen_penalty
    model = load(build(case, seen_penalty=penalty), state)
    model.stored_text, words, computed = t["text"], Vocabulary.parse(model.classes), {}
    with torch.no_grad():
        (image,), crop, rule = denormalise(t["image"], MEAN, STD), given["crop"], model.label_rule
        computed["slide_no_rescale"] = predict(model, image, given["image_hw"], words, rule)[1][None]
        result, scores = predict(model, image, given["ori_shape"], words, rule)
        computed |= {"slide_rescaled": scores[None], "label_map": result.labels[None]}
        computed["first_crop"] = predict(model, image[:, :crop, :crop], (crop, crop), words, rule)[1][None]
        # The published code ends with a softmax over the scores of the classes, which cannot change the labels.
        softmax = predict(model, image, given["ori_shape"], words, replace(rule, activation="softmax"))[1][None]
        for name in [name for name in t if name.startswith("inference_softmax_sub")]:
            step = int(name.removeprefix("inference_softmax_sub"))
            computed[name] = softmax[..., ::step, ::step]
        if "tokens" in t:
            computed["text_embedding_of_tokens"] = F.normalize(model.clip.encode_text(t["tokens"]), dim=-1)
    if "train_image" in t:
        computed |= training_step(case, model.train(), t["text"])
    case.compare(computed)
    check_trained(case.values, model, state)


def training_step(case: Case, model: TrainableHead, text: Tensor) -> dict[str, Tensor]:
    """Losses, and gradients of some parameters."""
    given, t = case.hyperparameters, case.tensors
    setting = "transductive" if given["self_training"] else "inductive"
    labels = training_labels(case, t["train_gt"][:, 0], setting)
    images = denormalise(t["train_image"], MEAN, STD)
    predictions = model(images, text if given["self_training"] else text[given["seen_idx"]])
    if given["self_training"]:
        labels = pseudo_labels(model.combine(predictions), labels, torch.tensor(given["unseen_idx"]), UNLABELLED)
    weights = given["loss_weights"]
    losses = all_losses(predictions, labels, weights["mask"], weights["dice"])
    losses["total"].backward()
    computed = {f"train_{name}": value for name, value in losses.items()}
    gradients = [name for name in t if name.startswith("train_grad.")]
    return computed | {name: gradient(model, name.removeprefix("train_grad.")) for name in gradients}


def check_trained(facts: dict, model: TrainableHead, state: towers.State) -> None:
    """The same parameters are trained and frozen as in the published code."""
    own = {name for name, _ in model.named_parameters() if not name.startswith("clip.")}
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    chosen = ({n: state[n] for n in facts[f"{kind}_parameters"] if n in state} for kind in ("trainable", "frozen"))
    (trained, nothing), (kept, frozen) = (split(part, name_of(type(model))) for part in chosen)
    assert set(trained) == wanted and not nothing
    assert set(kept) == own - wanted
    assert not any(model.clip.model.get_parameter(name).requires_grad for name in frozen)


KINDS = {
    "vpt_backbone": check_backbone,
    "vpt_pos_embed_init": check_position_table,
    "otseg_sinkhorn": check_sinkhorn,
    "otseg_attention": check_sinkhorn_attention,
    "zegclip_head": check_head,
    "otseg_head": check_head,
    "cascade_head": check_head,
    "segmentor": check_segmentor,
}
