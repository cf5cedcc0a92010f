"""CAT-Seg: its aggregation, whole models in both kinds of evaluation, text embeddings, prompts in CLIP, training."""

import re

import torch
import torch.nn.functional as F
from golden import towers
from golden.cases import Case, all_rows
from golden.label_maps import predict
from statistics_of_images import denormalise
from torch import Tensor

from heads import cat_seg
from heads.cat_seg_backbone import encode
from heads.cost_aggregation import LEFT_OUT, CostAggregation
from heads.losses import VOID, cross_entropy_loss
from heads.published import own_name, own_weights
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import run_block
from proxyclip.vocabulary import Vocabulary

CLIP, AGGREGATOR = "sem_seg_head.predictor.clip_model.", "sem_seg_head.predictor.transformer."  # published
TUNED = "clip.model."  # of the head, before open_clip's names
SEPARATE = re.compile(r"(.+\.attn\.)[qkv]_proj_weight")
ROWS = "__token_embedding_rows__", "__token_embedding_ids__"


def weights(case: Case) -> tuple[towers.State, towers.State]:
    """The published weights of a case under the names of the head, and those of CLIP under open_clip's names."""
    state = case.weights()
    if ROWS[0] in state:  # of token embeddings, a case holds the rows of its own tokens only
        rows, indices = (state.pop(name) for name in ROWS)
        state[f"{CLIP}token_embedding.weight"] = all_rows(rows, indices)
    named = own_weights(state, "cat_seg")
    frozen = {name.removeprefix(TUNED): value for name, value in named.items() if name.startswith(TUNED)}
    return {name: value for name, value in named.items() if not name.startswith(TUNED)}, frozen


def clip(case: Case, state: towers.State) -> DenseCLIP:
    layout = case.hyperparameters["clip"]
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    text = {name: value for name, value in state.items() if not name.startswith("visual.")}
    return towers.clip(visual, text, heads=layout["vh"], text_heads=layout["th"])


def smallest(patch_size: int) -> dict:
    """Options of a head of which only CLIP matters: they suit any."""
    sizes = {"clip_size": patch_size, "window": 1, "pooling": 1, "evaluation_pooling": 1}
    return sizes | {"guidance_blocks": (0, 0), "guidance_features": (16, 16)}


def build(case: Case, **options) -> cat_seg.Head:
    """The head of a case with its weights: every name must be known, and nothing may be missing."""
    given, (trained, frozen) = case.hyperparameters, weights(case)
    layout, own = given["clip"], given["aggregator"]
    pooling, _ = own["pooling_sizes"]  # square
    options = {
        "clip_size": layout["clip_resolution"],
        "guidance_blocks": tuple(layout["layer_indexes"]),
        "guidance_features": tuple(layout["g"]),
        "hidden": own["hidden_dims"],
        "layers": own["num_layers"],
        "attention_heads": own["num_heads"],
        "window": own["window_sizes"],
        "pooling": pooling,
        "evaluation_pooling": pooling,
        "attention": own["attention_type"],
        "pad_len": own["pad_len"],
        "image_guidance": own["appearance_guidance_proj_dim"],
        "text_guidance": own["text_guidance_proj_dim"],
        "decoder": tuple(own["decoder_dims"]),
        "decoder_guidance": tuple(own["decoder_guidance_proj_dims"]),
    } | options
    head = cat_seg.Head(clip(case, frozen), cat_seg.Options(**options), *[class_names(case)] * 2).eval()
    assert trained.keys() == {name for name in head.trained() if not name.startswith(TUNED)} - {"stored_text"}
    head.load_state_dict(trained, strict=False)
    return head


def class_names(case: Case) -> tuple[str, ...]:
    return tuple(name.replace(", ", "; ") for name in case.hyperparameters["classes"])


@torch.no_grad()
def check_aggregator(case: Case) -> None:
    given, t, computed = case.hyperparameters, case.tensors, {}
    trained, _ = weights(case)
    for variant in given["variants"]:
        count, kind, (pooling, _) = variant["T"], variant["attention_type"], variant["pooling_size"]
        model = CostAggregation(
            features=given["text_guidance_dim"],
            guidance=given["appearance_guidance_dim"],
            levels=given["decoder_guidance_dims"],
            grid=tuple(given["feature_resolution"]),
            prompts=given["prompt_channel"],
            hidden=given["hidden_dim"],
            layers=given["num_layers"],
            attention_heads=given["nheads"],
            window=given["window_size"],
            pooling=(pooling, pooling),
            attention=kind,
            pad_len=given["pad_len"],
            image_guidance=given["appearance_guidance_proj_dim"],
            text_guidance=given["text_guidance_proj_dim"],
            decoder=given["decoder_dims"],
            decoder_guidance=given["decoder_guidance_proj_dims"],
        ).eval()
        model.load_state_dict({name.removeprefix("aggregator."): value for name, value in trained.items()})
        steps = [of_one_image(model, t, image, count) for image in range(len(t["img_feats"]))]
        results = {name: torch.cat([step[name] for step in steps]) for name in steps[0]}
        results |= {f"{name}_first_image": value[:1] for name, value in results.items()}
        results |= {"decoder1_out_first_item": results["decoder1_out"][:1]}
        suffix = f"T{count}_{kind}_pool{pooling}"
        computed |= {f"{name}_{suffix}": value for name, value in results.items()}
        left_out = [torch.nonzero((image == LEFT_OUT).all(2).all(1))[:, 0].tolist() for image in results["logits"]]
        assert left_out == case.values.get(f"classes_filled_with_-100_{suffix}", [[]] * len(left_out))
    case.compare(computed)


def of_one_image(model: CostAggregation, t: dict[str, Tensor], image: int, count: int) -> dict[str, Tensor]:
    """All that a case has of one image, since each has embeddings of names of its own."""
    features, first, *levels = (
        t[name][image : image + 1] for name in ("img_feats", *sorted(n for n in t if n.startswith("guidance_")))
    )
    text = t[f"text_feats_T{count}"][image]  # (K, P, E)
    if 0 < model.pad_len < count:  # where classes are chosen, the published code makes unit vectors of them first
        text = F.normalize(text, dim=-1)
    cost = model.cost(features, text)
    results = {"correlation": cost.transpose(1, 2), "logits": model(features, first, levels, text)}
    x = model.embed(cost.flatten(0, 1)).permute(0, 2, 3, 1)[None]  # (1, K, h, w, C)
    results["conv1_out"] = x[0].permute(0, 3, 1, 2)
    guidance = F.relu(model.image_guidance(first))
    names = F.relu(model.text_guidance(F.normalize(text.mean(1), dim=-1)))[None]  # (1, K, G)
    results |= {"projected_guidance": guidance, "projected_text_guidance": names}
    for number, layer in enumerate(model.layers):
        x = layer.among_places(x, guidance.permute(0, 2, 3, 1), count)
        results[f"layer{number}_after_swin"] = x.permute(0, 4, 1, 2, 3)
        x = layer.classes(x, names, count)
        results[f"layer{number}_after_class_attention"] = x.permute(0, 4, 1, 2, 3)
    block = model.upsampling[0]
    decoded = block(x, *block.share(F.relu(model.decoder_guidance[0](levels[0]))))[0]  # (K, 2 h, 2 w, O)
    return results | {"decoder1_out": decoded.permute(0, 3, 1, 2)}


def check_full(case: Case) -> None:
    """The whole image at once, and one training step."""
    given, t, head = case.hyperparameters, case.tensors, build(case, crop=0)
    words, image, multiple = Vocabulary.parse(head.classes), t["image"] / 255, given["size_divisibility"]  # (3, H, W)
    with torch.no_grad():
        text = head.encode_classes(words)
        padding = 0, -image.shape[2] % multiple, 0, -image.shape[1] % multiple
        pixels = cat_seg.resized(F.pad(head.normalise(image), padding)[None], head.options.clip_size)
        images = denormalise(pixels, head.normalise.mean, head.normalise.std)
        encoded = encode(head.clip, images, head.options.guidance_blocks)
        (view,) = head.image_scores(image, text).views
        logits = view.scores.transpose(0, 1)  # (K, 4 h, 4 w)
        # Published scores of an image with padding are slightly squeezed; here the padding is cut off.
        squeezed = F.interpolate(logits.sigmoid()[None], given["output_size"], mode="bilinear", align_corners=False)
        step = int(re.search(r"::(\d+)", case.settings["tensors"]["clip_input"]["role"])[1])
        computed = {
            "text_features": text[None],
            "clip_input": pixels[:, :, ::step, ::step],
            "aggregator_logits": logits[None],
            "sem_seg": squeezed[0],
        }
        for name in t:
            if match := re.fullmatch(r"guidance_res\d_upsample(\d)_sub(\d+)", name):
                level, step = int(match[1]) - 1, int(match[2])
                computed[name] = head.guidance_lifts[level](encoded.levels[level])[:, :, ::step, ::step]
        # The class token is part of no result, and is not computed here.
        patches, expected = encoded.patches.flatten(2).mT, t["clip_dense_features"]
        computed["clip_dense_features"] = torch.cat([expected[:, :1], patches], dim=1)
    if "train_images" in t:
        labels = torch.where(t["train_sem_seg"] == given["ignore_value"], VOID, t["train_sem_seg"].int())
        loss = cross_entropy_loss(head.train()(t["train_images"] / 255, words)["decode"], labels)
        loss.backward()
        gradients = [name for name in t if name.startswith("train_grad.")]
        computed |= {name: gradient(head, name.removeprefix("train_grad.")) for name in gradients}
        computed["train_loss_sem_seg"] = loss[None]
        check_untrained_parts(head)
    case.compare(computed)


def gradient(head: cat_seg.Head, name: str) -> Tensor:
    """The gradient of a parameter, by its published name."""
    if not name.startswith(CLIP):
        return head.get_parameter(own_name(name, "cat_seg", -1)).grad
    own = TUNED + name.removeprefix(CLIP)
    if not SEPARATE.fullmatch(own):
        return head.get_parameter(own).grad
    joined, part = joined_name(own)
    return head.get_parameter(joined).grad.chunk(3)[part]


def joined_name(name: str) -> tuple[str, int]:
    """The weight that holds the published projection of queries, keys or values, and its part of three."""
    return SEPARATE.sub(r"\1in_proj_weight", name), "qkv".index(name.removesuffix("_proj_weight")[-1])


def check_untrained_parts(head: cat_seg.Head) -> None:
    """Keys have no gradient, and neither have the queries of the last block, which takes part by its values alone."""
    for tower in (head.clip.model, head.clip.visual):
        gradients = [block.attn.in_proj_weight.grad.chunk(3) for block in tower.transformer.resblocks]
        assert not any(key.any() for _, key, _ in gradients)
    assert not gradients[-1][0].any()


@torch.no_grad()
def check_sliding(case: Case) -> None:
    given, head = case.hyperparameters, build(case)
    words, image = Vocabulary.parse(head.classes), case.tensors["image"] / 255
    windows, whole = head.image_scores(image, head.encode_classes(words)).views
    small = cat_seg.resized(image[None], head.options.clip_size)
    patches, expected = encode(head.clip, small, ()).patches[0], case.tensors["clip_dense_features_global_view"]
    side = 4 * patches.shape[1]
    views = [part for rows in windows.scores.split(side) for part in rows.split(side, dim=2)]  # (side, K, side) each
    assert len(views) + 1 == case.values["n_views"]
    computed = {f"aggregator_logits_view{index}": view.transpose(0, 1) for index, view in enumerate(views)}
    computed["aggregator_logits_global_view"] = whole.scores.transpose(0, 1)
    computed["clip_dense_features_global_view"] = torch.cat([expected[:1], patches.flatten(1).mT])
    computed["sem_seg"] = predict(head, image, given["output_size"], words, head.label_rule)[1]
    case.compare(computed)


@torch.no_grad()
def check_text(case: Case) -> None:
    given, (_, state), classes = case.hyperparameters, weights(case), class_names(case)
    sets = {name: case.values.get(f"{name}_templates", own) for name, own in given["templates"].items()}

    def embeddings(templates: list[str], synonyms: str) -> tuple[cat_seg.Head, Tensor]:
        tower = clip(case, state)
        options = smallest(tower.patch_size) | {"templates": tuple(templates), "synonyms": synonyms}
        head = cat_seg.Head(tower, cat_seg.Options(**options), classes, classes).eval()
        return head, head.encode_classes(Vocabulary.parse(classes))

    computed = {f"class_embeddings_{name}": embeddings(templates, "mean")[1] for name, templates in sets.items()}
    for set_name, templates in sets.items():
        if f"get_text_embeds_{set_name}" not in case.tensors:  # several templates end in an error there
            continue
        head, computed[f"get_text_embeds_{set_name}"] = embeddings(templates, "first")
        first = [head.names_of(name)[0] for name in classes]
        prompts = [template.replace("{}", name) for name in first for template in templates]
        computed[f"tokens_{set_name}"] = head.clip.tokenizer(prompts)
    for name in case.tensors:  # the published CLIP has queries, keys and values apart
        kind, _, own = name.partition(".")
        if kind == "openai":
            computed[name] = state[own]
        elif kind == "split":
            joined, part = joined_name(own)
            computed[name] = state[joined].chunk(3)[part]
    case.compare(computed)


@torch.no_grad()
def check_prompted(case: Case) -> None:
    t, (_, state) = case.tensors, weights(case)
    published = {f"{CLIP}visual.transformer.prompt_tokens": t["prompt_tokens"]}
    prompts = own_weights(published, "cat_seg")["prompts"]  # (N, P, D)
    tower, computed = clip(case, state), {}
    for size in [name.removeprefix("image_") for name in t if name.startswith("image_")]:
        images = denormalise(t[f"image_{size}"], tower.mean, tower.std)
        patches = encode(tower, images, (), prompts).patches.flatten(2).mT  # (B, h * w, E)
        computed[f"dense_{size}"] = torch.cat([t[f"dense_{size}"][:, :1], patches], dim=1)
        tokens = tower.embed(images, offset=None)
        for block, own in zip(tower.blocks, prompts, strict=True):
            tokens = run_block(block, tokens, own.expand(len(tokens), -1, -1))
        computed[f"not_dense_{size}"] = tower.visual.ln_post(tokens[:, 0]) @ tower.visual.proj
        if tokens.shape[1] == len(t["resized_pos_embed"]):
            computed["resized_pos_embed"] = tower.position_table(*tower.grid(images), offset=None)
    case.compare(computed, left_out=("prompt_tokens",))


def check_trainable(case: Case) -> None:
    """What is trained in each mode, and the names of all weights."""
    settings = case.settings
    prefixes = f"{CLIP}visual.transformer.resblocks.", f"{CLIP}transformer.resblocks.", f"{AGGREGATOR}layers."
    blocks, text_blocks, layers = (layer_count(settings["all_state_dict_keys"], prefix) for prefix in prefixes)
    for mode, own in (("attention", "attention"), ("full", "full"), ("prompt", "prompt"), ("freeze", "frozen")):
        tower = towers.clip(joint=1, image_shape={"layers": blocks}, text_shape={"layers": text_blocks})
        options = smallest(tower.patch_size) | {"finetune": own, "layers": layers, "prompts": int(own == "prompt")}
        head = cat_seg.Head(tower, cat_seg.Options(**options), ("sky",), ("sky",)).train()
        trained = {name for name, value in head.named_parameters() if value.requires_grad}
        wanted = set(settings[mode]["clip_trainable"])
        joined = {SEPARATE.sub(r"\1in_proj_weight", name) for name in wanted}
        assert {name.removeprefix(TUNED) for name in trained if name.startswith(TUNED)} == joined, mode
        if own == "attention":
            assert {name.split(".")[-1] for name in wanted} == {"q_proj_weight", "v_proj_weight"}
        others = {name for name in trained if not name.startswith(TUNED)}
        assert others - {"prompts"} == {own_name(name, "cat_seg", -1) for name in settings["non_clip_trainable"]}
        assert ("prompts" in others) == (own == "prompt")


def layer_count(names: list[str], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in names if name.startswith(prefix))


KINDS = {
    "catseg_aggregator": check_aggregator,
    "catseg_full": check_full,
    "catseg_sliding": check_sliding,
    "catseg_text": check_text,
    "catseg_clip": check_prompted,
    "catseg_trainable": check_trainable,
}
