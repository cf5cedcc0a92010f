"""CLIP walked from outside, against open_clip's own outputs; that the library is left as it was; and which activation
goes with a checkpoint: named, recognised, or assumed with a warning."""

import json
import warnings

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from statistics_of_images import normalise
from test_loading import write
from torch import nn

from proxyclip.backbones import build_clip, checkpoints
from proxyclip.backbones import clip as clip_module
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import run_block
from proxyclip.errors import InputError

TOWERS = [
    {},
    {"quick_gelu": True},
    {"vision": {"ls_init_value": 0.3}},
    {"vision": {"patch_size": 14, "image_size": 42}},
    {"vision": {"patch_size": 16, "image_size": 80}},
    {"vision": {"image_size": (48, 32)}},
    {"vision": {"no_ln_pre": True}},
    {"vision": {"pos_embed_type": "sin_cos_2d"}},
    {"vision": {"pool_type": "avg"}},
    {"vision": {"pool_type": "avg", "final_ln_after_pool": True}},
    {"vision": {"mlp_ratio": 2.5, "layers": 3, "head_width": 8}},
    {"vision": {"act_kwargs": {"approximate": "tanh"}}},
    {"vision": {"norm_kwargs": {"eps": 0.01}}},
]
UNUSUAL = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def images(batch, height, width):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


def pooled(clip: DenseCLIP, given, vision: dict):
    """The image's embedding from the walked tokens, in the way the configuration asks for."""
    visual = clip.visual
    tokens = run_block(visual.transformer.resblocks[-1], clip.before_last_block(given))
    after_pool = vision.get("final_ln_after_pool", False)
    tokens = tokens if after_pool else visual.ln_post(tokens)
    token = tokens[:, 1:].mean(1) if vision.get("pool_type") == "avg" else tokens[:, 0]
    return (visual.ln_post(token) if after_pool else token) @ visual.proj


@pytest.mark.parametrize("changes", TOWERS, ids=str)
def test_the_walk_ends_where_open_clip_does(changes):
    assert build_clip.is_plain(tiny_clip.config(**changes))
    clip = tiny_clip.clip(**changes)
    given = images(2, *clip.visual.image_size)
    expected = clip.model.encode_image(normalise(given, clip.mean, clip.std))
    torch.testing.assert_close(pooled(clip, given, changes.get("vision", {})), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("option", UNUSUAL)
def test_towers_that_the_walk_does_not_cover_are_refused(option):
    config = tiny_clip.config(vision={option: True})
    assert not build_clip.is_plain(config)
    import_library("open_clip").CLIP(**config)  # open_clip does know the option
    with pytest.raises(InputError, match="not a standard vision transformer"):
        build_clip.check_plain("tiny", config)


@pytest.mark.parametrize(
    "changes",
    [
        {"vision": {"timm_model_name": "vit_tiny_patch16_224"}},
        {"vision": {"attentional_pool": True}},
        {"vision": {"layers": [1, 1, 1, 1]}},
        {"text": {"hf_model_name": "roberta-base"}},
        {"custom_text": True},
        {"multimodal_cfg": {}},
    ],
    ids=str,
)
def test_other_models_are_refused(changes):
    assert not build_clip.is_plain(tiny_clip.config(**changes))


def test_vanilla_is_the_unchanged_tower():
    clip = tiny_clip.clip()
    clip.visual.output_tokens = True
    given = images(2, 32, 32)
    _, tokens = clip.visual(normalise(given, clip.mean, clip.std))  # after ln_post
    expected = (tokens @ clip.visual.proj).mT.unflatten(2, (4, 4))
    torch.testing.assert_close(clip.vanilla(given), expected, atol=5e-6, rtol=0)


def test_values_and_projection_are_the_last_attention_s_own():
    """Where every token attends to itself alone, the library's attention gives its own values, projected."""
    clip = tiny_clip.clip()
    given = images(2, 48, 72)  # 6 x 9 patches
    layer = clip.visual.transformer.resblocks[-1].attn
    patches = clip.visual.transformer.resblocks[-1].ln_1(clip.before_last_block(given)[:, 1:])
    alone = torch.full((54, 54), float("-inf")).fill_diagonal_(0)
    expected, _ = layer(patches, patches, patches, attn_mask=alone, need_weights=False)
    values = clip.values(given)
    assert values.shape == (2, 32, 6, 9)
    got = clip.project(values.flatten(2).mT)
    expected = clip.visual.ln_post(expected) @ clip.visual.proj
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=0)


def test_rows_beyond_the_last_whole_patch_are_not_seen():
    clip = tiny_clip.clip()
    given = images(1, 55, 79)
    assert clip.grid(given) == (6, 9)
    torch.testing.assert_close(clip.values(given), clip.values(given[..., :48, :72]), atol=1e-6, rtol=0)


def test_position_tables():
    clip = tiny_clip.clip()
    native = clip.visual.positional_embedding
    assert clip.position_table(4, 4) is native
    table = clip.position_table(3, 7)
    grid = native[1:].T.reshape(1, 32, 4, 4)
    expected = F.interpolate(grid, scale_factor=(3.1 / 4, 7.1 / 4), mode="bicubic")[0].flatten(1).T
    torch.testing.assert_close(table[1:], expected)
    assert torch.equal(table[0], native[0])
    assert clip.position_table(2, 8) is native  # as published: as many patches, so left as it is


def test_a_tower_that_is_not_square():
    clip = tiny_clip.clip(vision={"image_size": (48, 32)})  # 6 x 4 patches
    assert clip.position_table(6, 4) is clip.visual.positional_embedding
    assert clip.position_table(3, 5).shape == (16, 32)
    assert clip.values(images(2, 40, 56)).shape == (2, 32, 5, 7)


TEXTS = [
    {},
    {"quick_gelu": True},
    {"text": {"layers": 2, "ls_init_value": 0.3}},
    {"text": {"proj_bias": True}},
    {"text": {"pool_type": "last"}},
    {"text": {"pool_type": "first"}},
    {"text": {"no_causal_mask": True}},
    {"text": {"context_length": 20}},
]


@pytest.mark.parametrize("changes", TEXTS, ids=str)
def test_text_against_open_clip(changes):
    clip = tiny_clip.clip(**changes)
    length = changes.get("text", {}).get("context_length", 77)
    prompts = ["a", "a photo of a cat.", "many words " * 60, "", "two red cars"]
    tokens = clip.tokenizer(prompts, context_length=length)
    for batch in (tokens, tokens[[1, 4]], tokens[:1]):
        torch.testing.assert_close(clip.encode_text(batch), clip.model.encode_text(batch), atol=5e-6, rtol=0)


def test_text_after_the_longest_prompt_is_not_computed(monkeypatch):
    clip, lengths = tiny_clip.clip(), []
    block = clip.model.transformer.resblocks[0]
    original = block.forward
    monkeypatch.setattr(block, "forward", lambda x, **k: lengths.append(x.shape) or original(x, **k))
    clip.encode_text(clip.tokenizer(["a cat", "a"]))
    assert lengths == [(2, 4, 16)]  # start, "a", "cat", end


def test_half_precision_keeps_the_text_in_float32():
    model = tiny_clip.model().set_precision(torch.bfloat16)
    towers = {}
    for name, parameter in model.clip.model.named_parameters():
        towers.setdefault("image" if name.startswith("visual.") else "text", set()).add(parameter.dtype)
    assert towers == {"image": {torch.bfloat16}, "text": {torch.float32}}
    assert {parameter.dtype for parameter in model.vfm.parameters()} == {torch.bfloat16}
    assert model.clip.dtype == torch.bfloat16
    assert model.clip.encode_text(model.clip.tokenizer(["a cat"])).dtype == torch.float32
    assert model.window_scores(images(2, 48, 72), torch.eye(3, 16)).dtype == torch.float32


@pytest.mark.parametrize("method", ["proxyclip", "maskclip", "clip"])
def test_the_libraries_are_left_as_they_were(method):
    """No hook, no attribute of an instance or class replaced."""
    model = tiny_clip.model(method, crop=40, stride=24)
    classes = {type(module) for module in model.modules() if not type(module).__module__.startswith("proxyclip")}
    methods = {cls: dict(vars(cls)) for cls in classes}
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.segment([tiny_clip.photograph(50, 70)] * 2, ["cat", "dog; hound"])

    assert {cls: dict(vars(cls)) for cls in classes} == methods
    hooks = [name for name in vars(nn.Module()) if name.endswith("hooks")]
    assert len(hooks) > 4
    for name, module in model.named_modules():
        assert sum(len(getattr(module, kind)) for kind in hooks) == 0, name
        assert "forward" not in vars(module), name
        if not type(module).__module__.startswith("proxyclip"):
            changed = {key for key, value in vars(module).items() if value is not attributes[name].get(key)}
            assert not changed, name
            assert vars(module).keys() == attributes[name].keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(vars(nn.modules.module)[f"_global_{kind}_hooks"] for kind in ("forward", "forward_pre", "backward"))


def test_the_fingerprint_is_of_the_weights_as_they_are():
    clip = tiny_clip.clip()
    weight, seen = clip.model.ln_final.weight, [clip.fingerprint]
    original = {name: value.clone() for name, value in clip.model.state_dict().items()}

    def in_inference_mode():
        with torch.inference_mode():
            clip.fingerprint  # noqa: B018
            clip.model.ln_final.bias.mul_(1.5)

    changes = [
        lambda: weight.add_(1),
        lambda: weight[:1].add_(1),
        lambda: weight.data.add_(1),  # not counted as a new version of the weight
        lambda: setattr(weight, "data", weight.data * 2),
        lambda: setattr(clip.model.ln_final, "weight", nn.Parameter(weight.detach() + 1, requires_grad=False)),
        lambda: clip.model.load_state_dict(original | {"ln_final.bias": original["ln_final.bias"] + 1}),
        in_inference_mode,
    ]
    for change in changes:
        change()
        with torch.inference_mode():
            seen.append(clip.fingerprint)
        assert clip.fingerprint == seen[-1]
    assert len({*seen}) == len(seen)
    clip.model.load_state_dict(original)
    clip.model.ln_final.weight = weight
    weight.copy_(original["ln_final.weight"])
    assert clip.fingerprint == seen[0]
    with torch.no_grad():
        clip.visual.proj.add_(1)
    assert clip.fingerprint == seen[0]  # text does not depend on the image tower


def test_the_fingerprint_is_computed_once(monkeypatch):
    clip, hashed, original = tiny_clip.clip(), [], checkpoints.fingerprint
    monkeypatch.setattr(clip_module, "fingerprint", lambda weights: hashed.append(1) or original(weights))
    assert len({clip.fingerprint for _ in range(3)}) == 1
    assert len(hashed) == 1


# Activation


@pytest.fixture
def tiny_trainings(tmp_path, monkeypatch):
    """open_clip knows the tiny CLIP as "Tiny-8", trained once with QuickGELU and once with GELU, and as "Plain-8"."""
    open_clip, quick = import_library("open_clip"), {"quick_gelu": True}
    for name, more in (("Tiny-8", {}), ("Tiny-8-quickgelu", quick), ("Plain-8", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(tiny_clip.config() | more))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    trainings = {"Tiny-8": {"openai": quick, "laion2b_s1": {}, "datacomp": {}}, "Tiny-8-quickgelu": {"openai": quick}}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: list(trainings.get(name, {})))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: trainings.get(name, {}).get(tag, {}))


@pytest.fixture
def weights(tiny_trainings, tmp_path):
    """A plain file, and an archive as OpenAI published them, whose activation is known."""
    state, files = tiny_clip.open_clip_model().state_dict(), {}
    for layout in ("state dict", "torchscript"):
        (tmp_path / layout).mkdir()
        files[layout] = write(layout, state, tmp_path / layout)
    return files


def load_silently(spec, *checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return build_clip.load(spec, *checkpoint)


@pytest.mark.parametrize(
    ("spec", "layout", "activation", "name"),
    [
        ("Tiny-8:openai", "state dict", "QuickGELU", "Tiny-8:"),
        ("Tiny-8:laion2b_s1", "state dict", "GELU", "Tiny-8:"),
        ("Tiny-8:random", "state dict", "GELU", "Tiny-8:"),
        ("Tiny-8-quickgelu", "state dict", "QuickGELU", "Tiny-8-quickgelu:"),
        ("Plain-8", "state dict", "GELU", "Plain-8:"),
        ("Tiny-8", "torchscript", "QuickGELU", "Tiny-8:openai"),
        ("Plain-8", "torchscript", "QuickGELU", "Plain-8:openai"),
    ],
)
def test_an_activation_that_is_known(weights, spec, layout, activation, name):
    clip = load_silently(spec, weights[layout])
    assert clip.activation == activation and clip.name.startswith(name)
    assert type(clip.model.transformer.resblocks[0].mlp.gelu).__name__ == activation  # the text tower's too


def test_an_activation_that_is_assumed(weights):
    file = weights["state dict"]
    options = [f"clip=Tiny-8:{tag} with checkpoint_clip=FILE for" for tag in ("openai", "laion2b_s1")]
    sentence = f"{file} does not say .*: assuming QuickGELU, as in Tiny-8:openai. .*"
    for spec, checkpoint in ((f"Tiny-8:{file}", ()), ("Tiny-8", (file,))):
        with pytest.warns(UserWarning, match=f"{sentence}{options[0]} QuickGELU, {options[1]} GELU"):
            clip = build_clip.load(spec, *checkpoint)
        assert clip.activation == "QuickGELU"
        assert clip.name == f"Tiny-8:{file.name}"  # a record does not claim weights that it does not know
    other = load_silently("Tiny-8:laion2b_s1", file)
    assert not torch.equal(clip.vanilla(images(1, 32, 32)), other.vanilla(images(1, 32, 32)))
    assert clip.fingerprint != other.fingerprint


def test_activations_that_contradict_each_other(weights, tmp_path):
    archive = weights["torchscript"]
    for spec in ("Tiny-8:laion2b_s1", "Tiny-8:random"):
        with pytest.raises(InputError, match=f"{archive} is an OpenAI archive, trained with QuickGELU, but {spec} use"):
            build_clip.load(spec, archive)
    with pytest.raises(InputError, match="set quick_gelu to true in the folder's"):
        build_clip.load(tiny_clip.save_folder(tmp_path / "clip"), archive)
    folder = tiny_clip.save_folder(tmp_path / "clip", quick_gelu=True)
    assert load_silently(folder, archive).activation == "QuickGELU"
    with pytest.raises(InputError, match="weights are given twice"):
        build_clip.load(f"Tiny-8:{archive}", archive)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-B-16-quickgelu"])
def test_the_published_trainings_are_read_as_open_clip_reads_them(name):
    open_clip = import_library("open_clip")
    default = open_clip.get_model_config(name).get("quick_gelu", False)
    for tag in open_clip.list_pretrained_tags_by_model(name):
        expected = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", default)
        assert build_clip.uses_quick_gelu(name, tag) == expected
