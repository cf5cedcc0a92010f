"""Checks of CAT-Seg: its aggregation, whole models in both kinds of evaluation, text embeddings, prompts in CLIP."""

import torch
import torch.nn.functional as F
from golden.cases import Case
from golden.heads_models import compare
from safetensors.torch import load_file

from heads import cat_seg
from heads.cat_seg_backbone import encode
from heads.cost_aggregation import LEFT_OUT, CostAggregation
from heads.losses import VOID, cross_entropy_loss
from heads.published import own_name, own_weights
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import run_block
from proxyclip.images import denormalise
from proxyclip.labels import decide_labels
from proxyclip.vocabulary import Vocabulary

IGNORED = 255  # in published labels
CLIP, AGGREGATOR = "sem_seg_head.predictor.clip_model.", "sem_seg_head.predictor.transformer."
ROWS = "__token_embedding_rows__", "__token_embedding_ids__"


def published(case: Case) -> dict[str, torch.Tensor]:
    """The state dict of a case; of token embeddings, it holds the rows of its own tokens only."""
    name = case.settings["values"].get("weights_file", f"{case.file.stem}.weights.safetensors")
    state = load_file(case.file.parent / name)
    if ROWS[0] in state:
        rows, places = (state.pop(name) for name in ROWS)
        table = rows.new_full((49408, rows.shape[1]), float("nan"))  # no other token can pass unnoticed
        state[f"{CLIP}token_embedding.weight"] = table.index_copy_(0, places, rows)
    return state


def clip(given: dict) -> DenseCLIP:
    """The tiny CLIP of a case, with random weights."""
    open_clip = import_library("open_clip")
    vision = {"image_size": given["res"], "patch_size": given["patch"], "width": given["width"]}
    vision |= {"layers": given["layers"], "head_width": given["width"] // given["vh"]}
    text = {"context_length": 77, "vocab_size": 49408, "width": given["tw"], "heads": given["th"]}
    model = open_clip.CLIP(given["emb"], vision, text | {"layers": given["tl"]}, quick_gelu=True)
    statistics = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return DenseCLIP(model.eval(), open_clip.get_tokenizer("ViT-B-16"), *statistics, "tiny")


def build(case: Case, state: dict, **options) -> cat_seg.Head:
    """The head of a case with its weights: every name must be known, and nothing may be missing."""
    given = case.settings["hyperparameters"]
    own, layout = given.get("aggregator"), given["clip"]
    if own:
        options = {
            "clip_size": layout["clip_resolution"],
            "guidance_blocks": tuple(layout["layer_indexes"]),
            "guidance_features": tuple(layout["g"]),
            "hidden": own["hidden_dims"],
            "layers": own["num_layers"],
            "attention_heads": own["num_heads"],
            "window": own["window_sizes"],
            "pooling": own["pooling_sizes"][0],
            "evaluation_pooling": own["pooling_sizes"][0],
            "attention": own["attention_type"],
            "pad_len": own["pad_len"],
            "image_guidance": own["appearance_guidance_proj_dim"],
            "text_guidance": own["text_guidance_proj_dim"],
            "decoder": tuple(own["decoder_dims"]),
            "decoder_guidance": tuple(own["decoder_guidance_proj_dims"]),
        } | options
    classes = tuple(name.replace(", ", "; ") for name in given["classes"])
    head = cat_seg.Head(clip(layout), cat_seg.Options(**options), classes, classes).eval()
    weights = own_weights(state, "cat_seg")
    if own:
        assert weights.keys() == {*head.state_dict()} - {"stored_text", "clip.model.logit_scale"}
    head.load_state_dict({n: value for n, value in weights.items() if own or n.startswith("clip.")}, strict=False)
    return head


@torch.no_grad()
def check_aggregator(case):
    given, t, state = case.settings["hyperparameters"], case.tensors, published(case)
    weights = own_weights(state, "cat_seg")
    computed = {}
    for variant in given["variants"]:
        count, kind, pooling = variant["T"], variant["attention_type"], variant["pooling_size"][0]
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
        model.load_state_dict({name.removeprefix("aggregator."): value for name, value in weights.items()})
        steps = [images_alone(model, t, image, count, given["pad_len"]) for image in range(len(t["img_feats"]))]
        found = {name: torch.cat([step[name] for step in steps]) for name in steps[0]}
        firsts = {f"{name}_first_image": value[:1] for name, value in found.items()}
        found |= firsts | {"decoder1_out_first_item": found["decoder1_out"][:1]}
        computed |= {f"{name}_T{count}_{kind}_pool{pooling}": value for name, value in found.items()}
        filled = case.settings["values"].get(f"classes_filled_with_-100_T{count}_{kind}_pool{pooling}")
        left_out = [torch.nonzero((image == LEFT_OUT).all(2).all(1))[:, 0].tolist() for image in found["logits"]]
        assert left_out == (filled or [[]] * len(left_out))
    compare(case, computed)


def images_alone(model, t, image: int, count: int, pad_len: int) -> dict[str, torch.Tensor]:
    """All that a case has of one image, since each has embeddings of names of its own."""
    features, first, *levels = (
        t[name][image : image + 1] for name in ("img_feats", "guidance_0", "guidance_1", "guidance_2")
    )
    text = t[f"text_feats_T{count}"][image]  # (K, P, E)
    if 0 < pad_len < count:  # where classes are chosen, the published code makes unit vectors of them first
        text = F.normalize(text, dim=-1)
    cost = model.cost(features, text)
    found = {"correlation": cost.transpose(1, 2), "logits": model(features, first, levels, text)}
    x = model.embed(cost.flatten(0, 1)).permute(0, 2, 3, 1)[None]  # (1, K, h, w, C)
    found["conv1_out"] = x[0].permute(0, 3, 1, 2)
    guidance = F.relu(model.image_guidance(first))
    names = F.relu(model.text_guidance(F.normalize(text.mean(1), dim=-1)))[None]  # (1, K, G)
    found |= {"projected_guidance": guidance, "projected_text_guidance": names}
    for number, layer in enumerate(model.layers):
        x = layer.among_places(x, guidance.permute(0, 2, 3, 1), count)
        found[f"layer{number}_after_swin"] = x.permute(0, 4, 1, 2, 3)
        x = layer.classes(x, names, count)
        found[f"layer{number}_after_class_attention"] = x.permute(0, 4, 1, 2, 3)
    block = model.upsampling[0]
    found["decoder1_out"] = block(x, *block.share(F.relu(model.decoder_guidance[0](levels[0]))))[0].permute(0, 3, 1, 2)
    return found


def check_full(case):
    given, t, state = case.settings["hyperparameters"], case.tensors, published(case)
    head = build(case, state, crop=0)
    vocabulary, image = Vocabulary.parse(head.classes), t["image"] / 255  # (3, H, W)
    with torch.no_grad():
        text = head.encode_classes(vocabulary)
        padded = F.pad(head.normalise(image), (0, -image.shape[2] % 32, 0, -image.shape[1] % 32))
        pixels = cat_seg.resized(padded[None], head.options.clip_size)
        images = denormalise(pixels, head.normalise.mean, head.normalise.std)
        encoded = encode(head.clip, images, head.options.guidance_blocks)
        first, second = (lift(level) for lift, level in zip(head.guidance_lifts, encoded.levels, strict=True))
        (view,) = head.image_scores(image, text).views
        logits = view.scores.transpose(0, 1)  # (K, 4 h, 4 w)
        # Published scores of an image with padding are slightly squeezed; here the padding is cut off.
        squeezed = F.interpolate(logits.sigmoid()[None], given["output_size"], mode="bilinear", align_corners=False)
        computed = {
            "text_features": text[None],
            "clip_input": pixels[:, :, ::16, ::16],
            "guidance_res4_upsample1_sub3": first[:, :, ::3, ::3],
            "guidance_res5_upsample2_sub5": second[:, :, ::5, ::5],
            "aggregator_logits": logits[None],
            "sem_seg": squeezed[0],
        }
        # The class token is part of no result, and is not computed here.
        patches, expected = encoded.patches.flatten(2).mT, t["clip_dense_features"]
        computed["clip_dense_features"] = torch.cat([expected[:, :1], patches], dim=1)
    if "train_images" in t:
        computed |= training_step(t, head.train(), vocabulary)
    compare(case, computed)


def training_step(t, head, vocabulary) -> dict[str, torch.Tensor]:
    """The loss, and gradients of some parameters."""
    labels = torch.where(t["train_sem_seg"] == IGNORED, VOID, t["train_sem_seg"].int())
    loss = cross_entropy_loss(head(t["train_images"] / 255, vocabulary)["decode"], labels)
    loss.backward()
    found = {f"train_grad.{name}": gradient for name, gradient in published_gradients(head).items()}
    return {"train_loss_sem_seg": loss[None]} | {name: found[name] for name in t if name in found}


def published_gradients(head) -> dict[str, torch.Tensor]:
    """Gradients of everything that is trained, by published names."""
    own, found = dict(head.named_parameters()), {}
    for name, parameter in own.items():
        if name.startswith("clip.model.") and parameter.grad is not None:
            place = CLIP + name.removeprefix("clip.model.").removesuffix("in_proj_weight")
            query, key, value = parameter.grad.chunk(3)
            assert not key.any()
            found |= {f"{place}q_proj_weight": query, f"{place}v_proj_weight": value}
    last = max(int(name.split(".")[6]) for name in found if ".visual." in name)
    assert not found[f"{CLIP}visual.transformer.resblocks.{last}.attn.q_proj_weight"].any()
    known = ("upsample1.weight", "upsample2.bias", f"{AGGREGATOR}conv1.weight")
    known += (f"{AGGREGATOR}layers.0.attention.padding_tokens",)
    return found | {name: own[own_name(name, "cat_seg", -1)].grad for name in known}


@torch.no_grad()
def check_sliding(case):
    given, t = case.settings["hyperparameters"], case.tensors
    head = build(case, published(case))
    image, text = t["image"] / 255, head.encode_classes(Vocabulary.parse(head.classes))
    scores = head.image_scores(image, text)
    windows, whole = scores.views
    side, count = head.window_size[0] // 4, len(head.classes)
    found = decide_labels(scores, given["output_size"], head.label_rule, torch.arange(count), keep=range(count))
    patches = encode(head.clip, cat_seg.resized(image[None], head.options.clip_size), ()).patches[0].flatten(1).mT
    expected = t["clip_dense_features_global_view"]
    compare(case, {
        "aggregator_logits_view0": windows.scores[:side, :, :side].transpose(0, 1),
        "aggregator_logits_global_view": whole.scores.transpose(0, 1),
        "clip_dense_features_global_view": torch.cat([expected[:1], patches]),
        "sem_seg": torch.stack([found.class_scores[index] for index in range(count)]),
    })  # fmt: skip


@torch.no_grad()
def check_text(case):
    given, state = case.settings["hyperparameters"], published(case)
    sets = given["templates"] | {"imagenet": case.settings["values"]["imagenet_templates"]}

    def embeddings(templates, synonyms):
        head = build(case, state, templates=tuple(templates), synonyms=synonyms)
        return head, head.encode_classes(Vocabulary.parse(head.classes))

    computed = {f"class_embeddings_{name}": embeddings(sets[name], "mean")[1] for name in sets}
    head, computed["get_text_embeds_single"] = embeddings(sets["single"], "first")
    first = [head.names_of(name)[0] for name in head.classes]
    computed["tokens_single"] = head.clip.tokenizer([sets["single"][0].replace("{}", name) for name in first])
    place = "visual.transformer.resblocks.0.attn."
    weight = head.clip.model.get_parameter(f"{place}in_proj_weight")
    computed[f"openai.{place}in_proj_weight"] = weight
    parts = zip("qkv", weight.chunk(3), strict=True)
    computed |= {f"split.{place}{part}_proj_weight": rows for part, rows in parts}
    compare(case, computed)


@torch.no_grad()
def check_prompted(case):
    given, t = case.settings["hyperparameters"], case.tensors
    state = published(case) | {f"{CLIP}visual.transformer.prompt_tokens": t["prompt_tokens"]}
    weights = own_weights(state, "cat_seg")
    prompts, tiny = weights["prompts"], clip(given["clip"])
    of_clip = {name.removeprefix("clip.model."): value for name, value in weights.items() if name.startswith("clip.")}
    tiny.model.load_state_dict({"logit_scale": tiny.model.logit_scale} | of_clip)
    computed = {}
    for name in ("native", "other_size"):
        images = denormalise(t[f"image_{name}"].float(), tiny.mean, tiny.std)
        patches = encode(tiny, images, (), prompts).patches.flatten(2).mT  # (B, h * w, E)
        computed[f"dense_{name}"] = torch.cat([t[f"dense_{name}"][:, :1], patches], dim=1)
    tokens = tiny.embed(denormalise(t["image_native"].float(), tiny.mean, tiny.std), offset=None)
    for block, own in zip(tiny.visual.transformer.resblocks, prompts, strict=True):
        tokens = run_block(block, tokens, own.expand(len(tokens), -1, -1))
    computed["not_dense_native"] = tiny.visual.ln_post(tokens[:, 0]) @ tiny.visual.proj
    computed["resized_pos_embed"] = tiny.position_table(10, 10, offset=None)
    compare(case, computed, left_out=("prompt_tokens",))


def check_trained(case):
    """What is trained in each mode, and the names of all weights."""
    settings = case.settings
    known = [name for name in settings["all_state_dict_keys"] if "resblocks" in name]
    layers = 1 + max(int(name.split(".")[6]) for name in known if ".visual." in name)
    layout = {"res": 224, "patch": 16, "width": 32, "layers": layers, "emb": 24, "tw": 32, "tl": 2, "vh": 4, "th": 4}
    for mode, own in (("attention", "attention"), ("full", "full"), ("prompt", "prompt"), ("freeze", "frozen")):
        options = {
            "finetune": own,
            "prompts": 3 if own == "prompt" else 0,
            "clip_size": 192,
            "decoder_guidance": (16, 8),
        }
        head = cat_seg.Head(clip(layout), cat_seg.Options(**options), ("sky",), ("sky",)).train()
        loss = head(torch.rand(1, 3, 32, 32), Vocabulary.parse(["sky"]))["decode"].square().sum()
        loss.backward()
        names = {name.removeprefix("clip.model.") for name, value in head.clip.named_parameters(prefix="clip")
                 if value.requires_grad}  # fmt: skip
        wanted = set(settings[mode]["clip_trainable"])
        joined = {name.replace(f".{part}_proj_", ".in_proj_") for name in wanted for part in "qkv"
                  if f".{part}_proj_" in name}  # fmt: skip
        assert names == joined | {name for name in wanted if "_proj_weight" not in name}, mode
        if own == "attention":
            assert {name.split(".")[-1] for name in wanted} == {"q_proj_weight", "v_proj_weight"}
        others = {name for name, value in head.named_parameters() if value.requires_grad and "clip." not in name}
        assert others - {"prompts"} == {own_name(name, "cat_seg", -1) for name in settings["non_clip_trainable"]}
        assert ("prompts" in others) == (own == "prompt")


KINDS = {
    "catseg_aggregator": check_aggregator,
    "catseg_full": check_full,
    "catseg_sliding": check_sliding,
    "catseg_text": check_text,
    "catseg_clip": check_prompted,
}
