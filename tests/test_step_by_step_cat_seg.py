"""The slow and obvious CAT-Seg of tests/step_by_step_cat_seg.py against the reference cases in $GOLDEN_DIR, and the
head of heads/cat_seg.py against the slow one."""

import pytest
import step_by_step_cat_seg as slow
import tiny_cat_seg
import tiny_clip
import torch
import torch.nn.functional as F
from golden.cases import all_cases
from golden.heads_cat_seg import published
from golden.heads_models import compare

from heads.published import own_weights
from proxyclip.labels import decide_labels

CASES = {case.file.stem: case for case in all_cases("heads") if case.file.stem.startswith("catseg_")}
CASES.pop("catseg_trainable", None)  # a table
PROMPTS = f"{slow.CLIP}.visual.transformer.prompt_tokens"


def arguments(given: dict) -> dict:
    """Of the functions that run the whole model."""
    clip, own = given["clip"], given["aggregator"]
    return {
        "side": clip["clip_resolution"],
        "clip": {"heads": clip["vh"], "blocks": tuple(clip["layer_indexes"])},
        "aggregator": {
            "heads": own["num_heads"],
            "window": own["window_sizes"],
            "pooling": own["pooling_sizes"][0],
            "attention": own["attention_type"],
            "pad_len": own["pad_len"],
        },
    }


def text(state, given, **choices):
    templates = choices.pop("templates", ["A photo of a {} in the scene"])
    heads = given["clip"]["th"]
    return slow.encode_classes(state, tiny_clip.tokenizer(), given["classes"], templates, heads=heads, **choices)


def check_aggregator(case):
    given, t, state = case.settings["hyperparameters"], case.tensors, published(case)
    guidance = [t[f"guidance_{index}"] for index in range(3)]
    computed = {}
    for variant in given["variants"]:
        classes, kind, pooling = variant["T"], variant["attention_type"], variant["pooling_size"][0]
        found = {}
        logits = slow.aggregate(
            state, t["img_feats"], guidance, t[f"text_feats_T{classes}"],
            heads=given["nheads"], window=given["window_size"], pooling=pooling, attention=kind,
            pad_len=given["pad_len"], found=found,
        )  # fmt: skip
        names = {
            "correlation": found["cost"].transpose(1, 2),
            "logits": logits,
            "logits_first_image": logits[:1],
        }
        if "embedded" in found:
            names |= {
                "conv1_out": found["embedded"].flatten(0, 1),
                "projected_guidance": found["appearance"],
                "projected_text_guidance": found["words"],
                "decoder1_out_first_item": found["upsampled 0"][0, :1],
            }
            for layer in range(given["num_layers"]):
                first = {"swin": found[f"spatial {layer}"][:1], "class_attention": found[f"classes {layer}"][:1]}
                names |= {f"layer{layer}_after_{key}_first_image": x.transpose(1, 2) for key, x in first.items()}
        computed |= {f"{name}_T{classes}_{kind}_pool{pooling}": value for name, value in names.items()}
        filled = case.settings["values"].get(f"classes_filled_with_-100_T{classes}_{kind}_pool{pooling}")
        left_out = [image.amax(dim=(1, 2)) == slow.NOT_AGGREGATED for image in logits]
        assert [torch.nonzero(image)[:, 0].tolist() for image in left_out] == (filled or [[]] * len(logits))
    compare(case, computed)


def check_mask(case):
    """Of shifted windows, which published checkpoints hold."""
    given = case.settings["hyperparameters"]
    given = given.get("aggregator", given)
    size, window = given["feature_resolution"], given.get("window_sizes", given.get("window_size"))
    for name, mask in published(case).items():
        if name.endswith("attn_mask"):
            assert torch.equal(slow.window_mask(size, window, window // 2), mask)


def check_full(case):
    given, t, state = case.settings["hyperparameters"], case.tensors, published(case)
    own, image = arguments(given), t["image"] / 255
    words = text(state, given)
    height, width = image.shape[1:]
    padded = F.pad(slow.normalised(image), (0, -width % 32, 0, -height % 32))
    pixels = slow.resized(padded[None], (own["side"],) * 2)
    features, blocks = slow.encode_image(state, pixels, **own["clip"])
    first, second = slow.guidance_maps(state, blocks)
    computed = {
        "text_features": words[None],
        "clip_input": pixels[:, :, ::16, ::16],
        "clip_dense_features": features,
        "guidance_res4_upsample1_sub3": first[:, :, ::3, ::3],
        "guidance_res5_upsample2_sub5": second[:, :, ::5, ::5],
        "aggregator_logits": slow.logits(state, pixels, words, clip=own["clip"], aggregator=own["aggregator"]),
        "sem_seg": slow.whole_image(state, image, words, given["output_size"], **own),
    }
    if "train_images" in t:
        computed |= training_step(t, state, given, own)
    compare(case, computed)


def training_step(t, state, given, own):
    state = {name: value.requires_grad_() for name, value in state.items()}
    pixels = slow.resized(slow.normalised(t["train_images"] / 255), (own["side"],) * 2)
    with torch.enable_grad():
        logits = slow.logits(state, pixels, text(state, given), clip=own["clip"], aggregator=own["aggregator"])
        loss = slow.loss(logits, t["train_sem_seg"])
        loss.backward()
    last = f"{slow.CLIP}.visual.transformer.resblocks.{given['clip']['layers'] - 1}.attn.q_proj_weight"
    assert state[last].grad is None
    gradients = {name: state[name.removeprefix("train_grad.")].grad for name in t if name.startswith("train_grad.")}
    return {"train_loss_sem_seg": loss[None]} | gradients


def check_sliding(case):
    given, t, state = case.settings["hyperparameters"], case.tensors, published(case)
    own, image, words = arguments(given), t["image"] / 255, text(state, given)
    parts = {"clip": own["clip"], "aggregator": own["aggregator"]}
    stretched, whole = (slow.resized(slow.normalised(image[None]), (side, side)) for side in (640, 384))
    compare(case, {
        "aggregator_logits_view0": slow.logits(state, stretched[..., :384, :384], words, **parts)[0],
        "aggregator_logits_global_view": slow.logits(state, whole, words, **parts)[0],
        "clip_dense_features_global_view": slow.encode_image(state, whole, **own["clip"])[0][0],
        "sem_seg": slow.windows_and_global_view(state, image, words, given["output_size"], **own),
    })  # fmt: skip


def check_text(case):
    given, state = case.settings["hyperparameters"], published(case)
    sets = given["templates"] | {"imagenet": case.settings["values"]["imagenet_templates"]}
    computed = {
        f"class_embeddings_{name}": text(state, given, templates=sets[name], synonyms="mean")
        for name in ("single", "imagenet_select", "imagenet")
    }
    computed["get_text_embeds_single"] = text(state, given)
    first = [name.split(", ")[0] for name in given["classes"]]
    computed["tokens_single"] = tiny_clip.tokenizer()([sets["single"][0].format(name) for name in first])
    weights = [name for name in case.tensors if name.startswith(("openai.", "split."))]
    compare(case, computed, left_out=tuple(weights))


def check_prompted(case):
    given, t, state = case.settings["hyperparameters"], case.tensors, published(case)
    state[PROMPTS] = t["prompt_tokens"]
    heads = given["clip"]["vh"]
    computed = {
        f"dense_{name}": slow.encode_image(state, t[f"image_{name}"].float(), heads=heads)[0]
        for name in ("native", "other_size")
    }
    tokens, _ = slow.encode_image(state, t["image_native"].float(), heads=heads, dense=False)
    computed |= {"not_dense_native": tokens[:, 0], "resized_pos_embed": slow.position_table(state, (10, 10))}
    compare(case, computed, left_out=("prompt_tokens",))


KINDS = {
    "catseg_aggregator": check_aggregator,
    "catseg_full": check_full,
    "catseg_sliding": check_sliding,
    "catseg_text": check_text,
    "catseg_clip": check_prompted,
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_reference_case(name):
    (check,) = (check for kind, check in KINDS.items() if name.startswith(kind))
    check(CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("catseg_aggregator", "catseg_full"))])
def test_masks_of_published_weights(name):
    check_mask(CASES[name])


VARIANTS = {
    "padded": {},
    "full attention": {"attention": "full"},
    "places of one patch": {"pooling": 1},
    "pooled in evaluation": {"evaluation_pooling": 2},
    "no padding": {"pad_len": 0},
    "full attention without padding": {"attention": "full", "pad_len": 0},
    "as many classes as pad_len": {"pad_len": 5, "attention": "full"},
    "more classes than pad_len": {"pad_len": 3},
    "one window": {"window": 4},
    "two layers": {"layers": 2},
    "three prompts": {"templates": ("a {}", "one {}", "{}")},
    "prompts in CLIP": {"finetune": "prompt", "prompts": 2},
    "all of CLIP": {"finetune": "full"},
    "frozen CLIP": {"finetune": "frozen"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_gradients_of_the_head(name):
    head = tiny_cat_seg.head(**{"layers": 1} | VARIANTS[name]).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 40, 56, generator=generator)
    text = F.normalize(torch.randn(5, len(head.templates), 16, generator=generator), dim=-1)
    weights = torch.randn(2, 5, 16, 16, generator=generator)
    state = {key: value.requires_grad_() for key, value in tiny_cat_seg.published_state(head).items()}
    pixels = slow.resized(slow.normalised(images), (32, 32))

    plain = slow.logits(state, pixels, text, **tiny_cat_seg.arguments(head))
    (ours,) = head(images, text).values()
    assert plain.std() > 0.1  # otherwise the logits would be no test
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
    gradients = gradients_of(head, ours, weights), slow_gradients(head, state, plain, weights)
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[1].items():
        tolerance = 1e-4 * expected.abs().max().item() + 1e-5
        torch.testing.assert_close(gradients[0][key], expected, atol=tolerance, rtol=1e-3, msg=key)

    with torch.no_grad():
        plain = slow.logits(state, pixels, text, **tiny_cat_seg.arguments(head.eval()))
        (ours,) = head(images, text).values()
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def gradients_of(head, logits, weights):
    """Of all that the head trains, by name."""
    trained = {name: value for name, value in head.named_parameters() if value.requires_grad}
    total = (weights * logits)[logits != slow.NOT_AGGREGATED].sum()
    found = torch.autograd.grad(total, trained.values(), materialize_grads=True)
    return dict(zip(trained, found, strict=True))


def slow_gradients(head, state, logits, weights):
    """The same from published weights."""
    total = (weights * logits)[logits != slow.NOT_AGGREGATED].sum()
    gradients = dict(zip(state, torch.autograd.grad(total, state.values(), materialize_grads=True), strict=True))
    if head.options.finetune == "attention":  # queries and values are trained, keys are not
        gradients |= {name: torch.zeros_like(value) for name, value in gradients.items() if ".k_proj_" in name}
    return {name: value for name, value in own_weights(gradients, "cat_seg").items() if name in head.trained()}


def test_windows_and_the_global_view_of_the_head():
    """Crops are not of the size that CLIP sees."""
    head = tiny_cat_seg.head(square=44, crop=36, stride=8)
    choices = {"square": 44, "crop": 36, "stride": 8, "side": 32} | tiny_cat_seg.arguments(head)
    compare_images(head, (40, 60), slow.windows_and_global_view, choices)


def test_whole_image_of_the_head():
    """Without padding, which the published code leaves in the result."""
    head = tiny_cat_seg.head(crop=0)
    compare_images(head, (64, 96), slow.whole_image, {"side": 32} | tiny_cat_seg.arguments(head))


@torch.no_grad()
def compare_images(head, image_size, plain, choices):
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(3, *image_size, generator=generator)
    text = F.normalize(torch.randn(5, 1, 16, generator=generator), dim=-1)
    expected = plain(tiny_cat_seg.published_state(head), image, text, (50, 70), **choices)
    assert expected.std() > 0.05
    found = decide_labels(
        head.image_scores(image, text), (50, 70), head.label_rule, torch.arange(5), keep=range(5)
    ).class_scores
    torch.testing.assert_close(torch.stack([found[index] for index in range(5)]), expected, atol=1e-5, rtol=1e-4)
