"""The heads of the reference cases, with the weights that are stored under their published names, and comparing."""

import numpy as np
import torch
from golden.cases import Case
from safetensors.torch import load_file

from datasets.labels_for_training import LabelTable
from heads import cascade_clip, otseg, zegclip
from heads.head import TrainableHead
from heads.losses import VOID
from heads.published import own_name, own_weights
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.clip import DenseCLIP

REPOSITORIES = {"ZegCLIP": zegclip, "OTSeg": otseg, "Cascade-CLIP": cascade_clip}
IGNORED = 255  # in published labels
NO_TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
PARTS = {  # published parameters that are rows of one here
    "backbone.prompt_embeddings": ("encoder.prompts", slice(0, 1)),
    "backbone.deep_prompt_embeddings": ("encoder.prompts", slice(1, None)),
    "decode_head.weights_s1": ("weights", 0),
    "decode_head.weights_s2": ("weights", 1),
}


def published(case: Case) -> dict[str, torch.Tensor]:
    """The state dict of a case."""
    return load_file(case.file.with_suffix(".weights.safetensors"))


def clip(given: dict) -> DenseCLIP:
    """The tiny CLIP that a case's hyper-parameters describe, with random weights and without a tokenizer.

    A case that is about a decoder says nothing about the encoder: any will do whose joint embedding is as wide.
    """
    open_clip = import_library("open_clip")
    patch, joint = given.get("patch_size", 8), given.get("output_dim", given.get("embed_dims"))
    width = given.get("width", joint)
    vision = {"image_size": given.get("input_resolution", 8 * patch), "patch_size": patch, "width": width}
    vision |= {"layers": given.get("layers", given.get("num_features")), "head_width": width // given.get("heads", 1)}
    text = dict(given.get("text_encoder", NO_TEXT | {"embed_dim": joint}))
    model = open_clip.CLIP(text.pop("embed_dim"), vision, text, quick_gelu=True)
    return DenseCLIP(model.eval(), None, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, "tiny")


def build(case: Case, **options) -> TrainableHead:
    """The head of a case with its hyper-parameters, without dropout, before its weights are loaded."""
    given, repository = case.settings["hyperparameters"], case.settings["source"]["repo"].split("/")[1]
    module = REPOSITORIES[repository]
    size = given.get("crop", given.get("img_size", given.get("input_resolution")))
    stride = given.get("stride", size)
    options |= {"image_size": size, "short_side": 0, "crop": size, "stride": stride, "dropout": 0.0}
    options |= {"prompts": given.get("num_tokens", 1), "prompt_blocks": given.get("total_d_layer")}
    options |= {
        "decoder_layers": given.get("num_layers", 1),
        "decoder_heads": given.get("num_heads", given.get("heads")),
    }
    if given.get("num_prompts"):
        options["templates"] = module.TEMPLATES[: given["num_prompts"]]
    if module is cascade_clip:
        options["levels"] = tuple(given.get("out_indices", range(given.get("num_features", 0) - 1)))
        options["group_size"] = len(published(case).get("decode_head.weights_s1", [None]))
    classes, seen = names(case)
    return module.Head(clip(given), module.Options(**options), classes, seen).eval()


def names(case: Case) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of all classes and of the seen ones; a case has their numbers only."""
    given = case.settings["hyperparameters"]
    classes = tuple(f"class {index}" for index in range(given.get("num_all_classes", 1)))
    return classes, tuple(classes[index] for index in given.get("seen_idx", ()))


def labels(case: Case, ground_truth: torch.Tensor, setting: str) -> torch.Tensor:
    """Labels for training (B, H, W) in one of the settings, from the labels of all classes."""
    table = getattr(LabelTable, setting)(*names(case))
    known = torch.where(ground_truth == IGNORED, VOID, ground_truth.int()).numpy()
    return torch.from_numpy(np.stack([table(label) for label in known]))


def load(model: TrainableHead, state: dict[str, torch.Tensor]) -> TrainableHead:
    """Loads a published state dict: every name must be known, and of each half it holds it must hold everything."""
    own = set(model.trained())
    trained, frozen = split(model, state)
    assert not set(trained) - own, "unexpected"
    missing = own - set(trained) - {"stored_text"}
    if any(name.startswith("backbone.") for name in state):
        assert not {name for name in missing if of_encoder(name)}
        wanted = model.clip.state_dict()
        towers = {"model.visual."} | ({"model."} if any(name.startswith("text_encoder.") for name in state) else set())
        wanted = {name.removeprefix("model.") for name in wanted if name.startswith(tuple(towers))} - {"logit_scale"}
        assert set(frozen) == wanted
        model.clip.model.load_state_dict(frozen, strict=False)
    if any(name.startswith("decode_head.") for name in state):
        assert not {name for name in missing if not of_encoder(name)}
    model.load_state_dict(trained, strict=False)
    return model


def split(model: TrainableHead, state: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """A published state as weights that are trained, and those of CLIP under open_clip's names."""
    named = own_weights(state, name_of(model))
    frozen = {name.removeprefix("clip.model."): value for name, value in named.items() if name.startswith("clip.")}
    return {name: value for name, value in named.items() if not name.startswith("clip.")}, frozen


def name_of(model: TrainableHead) -> str:
    return type(model).__module__.rpartition(".")[2]


def of_encoder(name: str) -> bool:
    return name.startswith(("encoder.", "level_"))


def gradient(model: TrainableHead, name: str) -> torch.Tensor:
    """The gradient of a parameter, by its published name."""
    own, rows = PARTS.get(name) or (own_name(name, name_of(model), model.options.decoder_layers - 1), slice(None))
    return dict(model.named_parameters())[own].grad[rows]


def compare(case: Case, computed: dict[str, torch.Tensor | None], left_out: tuple[str, ...] = ()) -> None:
    """Every tensor of a case that is not an input against what was computed; whole numbers must be equal.

    left_out: names of tensors that have no counterpart here.
    """
    settings = case.settings
    inputs = ("input", "ground truth")
    for name, expected in case.tensors.items():
        if settings["tensors"][name]["role"].startswith(inputs) or name in left_out:
            continue
        assert name in computed, f"{name} was not computed"
        got = computed[name].detach()
        assert got.shape == expected.shape, f"{name}: {tuple(got.shape)} instead of {tuple(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(got.long(), expected.long()), name
            continue
        assert_close(case, name, got, expected)


def assert_close(case: Case, name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    """Within the tolerance that a case gives for its tensor of that name."""
    tolerance = 1e-5 + 5 * case.settings["fp64_max_abs_diff"].get(name, 0.0)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=1e-4, msg=lambda text: f"{name}: {text}")
