"""Builds a CLIP by name, with weights from the hub, an official checkpoint or a local folder."""

import json
import os
import warnings
from pathlib import Path

from torch import Tensor

from proxyclip.backbones.checkpoints import download, fixed_seed, import_library, load_strict, read_checkpoint
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError, NotFound, nearest

DEFAULT_WEIGHTS = {"ViT-H-14": "laion2b_s32b_b79k"}  # every other model: "openai" where OpenAI published it


def load(spec: str, checkpoint: str | Path | None = None) -> DenseCLIP:
    """A CLIP in float32 on the CPU, in evaluation mode.

    spec: "ViT-B-16:openai" (open_clip's names), "ViT-B-16" (default weights), "ViT-B-16:random" (seeded random
    weights), "ViT-B-16:FILE", or a folder with open_clip_config.json and weights. `checkpoint` is a file to use instead
    of the named weights: open_clip's own, or one published by OpenAI.

    Some weights of an architecture were trained with QuickGELU and others with GELU, and the weights do not say which.
    A file is therefore loaded with the activation of the weights that `spec` names. Without a name, OpenAI's archives
    are recognised; for other files of an architecture published with both activations, a warning says which one is
    assumed.
    """
    open_clip = import_library("open_clip")
    if os.path.isdir(spec):
        return from_folder(Path(spec), checkpoint)
    name, tag, file = parse(spec)
    if checkpoint and file:
        raise InputError(f"CLIP weights are given twice: {spec!r} and checkpoint {str(checkpoint)!r}")
    own = checkpoint or file
    file = own or (None if tag == "random" else fetch(name, tag))
    state = None if file is None else read_checkpoint(file, torchscript=True)
    recorded = f"{name}:{tag}"
    named = spec.partition(":")[2] in (*open_clip.list_pretrained_tags_by_model(name), "random")
    if own is not None and not named:
        if is_openais(state):
            tag, recorded = "openai", f"{name}:openai"
        else:
            recorded = f"{name}:{Path(file).name}"
            warn_of_assumption(name, tag, file)
    config = {**open_clip.get_model_config(name), "quick_gelu": uses_quick_gelu(name, tag)}
    preprocess = open_clip.get_pretrained_cfg(name, tag) or {}
    return build(config, state, open_clip.get_tokenizer(name), preprocess, recorded, str(file))


def parse(spec: str) -> tuple[str, str, str | None]:
    """Architecture, name of the weights, and their file if there is one; InputError for an unknown name."""
    open_clip = import_library("open_clip")
    if os.path.isdir(spec):
        return spec, "", None
    name, _, weights = spec.partition(":")
    name = name.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(f"unknown CLIP {name!r}; {nearest(name, plain_transformers())}")
    check_plain(name, config)
    tags = open_clip.list_pretrained_tags_by_model(name)
    best = DEFAULT_WEIGHTS.get(name) or ("openai" if "openai" in tags else next(iter(tags), "random"))
    if Path(weights).suffix:
        if not os.path.isfile(weights):
            raise NotFound(f"CLIP checkpoint {weights} does not exist")
        return name, best, weights
    if weights and weights not in (*tags, "random"):
        raise InputError(f"unknown weights {weights!r} of CLIP {name}; {nearest(weights, [*tags, 'random'])}")
    return name, weights or best, None


def image_encoder(spec: str) -> tuple[int, int]:
    """Number of blocks and patch size in pixels of a CLIP's image encoder, from its configuration alone."""
    vision = config_of(spec)["vision_cfg"]
    return vision.get("layers", 12), vision.get("patch_size", 16)


def embedding_width(spec: str) -> int:
    """The width of a CLIP's joint embeddings, from its configuration alone."""
    return config_of(spec)["embed_dim"]


def config_of(spec: str) -> dict:
    """open_clip's configuration of a CLIP."""
    open_clip = import_library("open_clip")
    config = read_folder_config(Path(spec))["model_cfg"] if os.path.isdir(spec) else None
    return config or open_clip.get_model_config(parse(spec)[0])


def normalisation(spec: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a CLIP's training data, from its configuration alone."""
    if os.path.isdir(spec):
        return mean_and_std(read_folder_config(Path(spec)).get("preprocess_cfg", {}))
    name, tag, _ = parse(spec)
    return mean_and_std(import_library("open_clip").get_pretrained_cfg(name, tag) or {})


def mean_and_std(preprocess: dict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Those of open_clip's preprocessing configuration, else those that OpenAI used."""
    mean, std = (getattr(import_library("open_clip"), f"OPENAI_DATASET_{name}") for name in ("MEAN", "STD"))
    return tuple(preprocess.get("mean") or mean), tuple(preprocess.get("std") or std)


def from_folder(folder: Path, checkpoint: str | Path | None) -> DenseCLIP:
    """Loads open_clip's folder layout: open_clip_config.json next to the weights; paths in it are relative to it."""
    open_clip = import_library("open_clip")
    settings = read_folder_config(folder)
    config, text = settings["model_cfg"], settings["model_cfg"]["text_cfg"]
    check_plain(str(folder), config)
    options = dict(text.get("tokenizer_kwargs", {}))
    if "bpe_path" in options:
        options["bpe_path"] = str(folder / options["bpe_path"])
    if text.get("hf_tokenizer_name"):
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    else:
        tokenizer = open_clip.SimpleTokenizer(context_length=text.get("context_length", 77), **options)
    weights = checkpoint or next(iter([*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]), None)
    if weights is None:
        raise NotFound(f"folder {folder} has no weights: expected open_clip_model.safetensors there")
    state, preprocess = read_checkpoint(weights, torchscript=True), settings.get("preprocess_cfg", {})
    return build(config, state, tokenizer, preprocess, str(folder), str(weights))


def read_folder_config(folder: Path) -> dict:
    """The contents of open_clip_config.json; NotFound, or InputError if a required entry is missing."""
    file = folder / "open_clip_config.json"
    if not file.is_file():
        raise NotFound(f"folder {folder} has no open_clip_config.json: it is not a CLIP in open_clip's layout")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        config = settings["model_cfg"]
        config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a valid open_clip configuration ({type(error).__name__}: {error})") from error
    return settings


def build(config: dict, state, tokenizer, preprocess: dict, name: str, source: str) -> DenseCLIP:
    """The model with the given weights; if `state` is None, with the library's random ones from a fixed seed."""
    open_clip = import_library("open_clip")
    if state is not None and is_openais(state) and not config.get("quick_gelu"):
        raise InputError(
            f"{source} is an OpenAI archive, trained with QuickGELU, but {name} uses GELU: name OpenAI's weights, for "
            "example ViT-B-16:openai, or set quick_gelu to true in the folder's open_clip_config.json"
        )
    with fixed_seed():
        try:
            model = open_clip.CLIP(**config)
        except TypeError as error:
            raise InputError(f"open_clip cannot build {name} from its configuration: {error}") from error
    if state is not None:
        load_strict(model, {key: value for key, value in state.items() if key not in OPENAI_EXTRAS}, source)
    return DenseCLIP(model.requires_grad_(False), tokenizer, *mean_and_std(preprocess), name).eval()


def fetch(name: str, tag: str) -> Path:
    """The file with published weights, from the local cache or the network."""
    open_clip = import_library("open_clip")
    published = open_clip.get_pretrained_cfg(name, tag) or {}
    if repository := published.get("hf_hub"):
        repository, _, filename = repository.rpartition("/")
        safe = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
        filenames = (filename,) if filename else (*safe, "open_clip_pytorch_model.bin")
        return download(repository, filenames, f"CLIP {name}:{tag}", "--checkpoint-clip")
    try:
        return Path(open_clip.download_pretrained(published))
    except OSError as error:
        raise NotFound(
            f"the weights of CLIP {name}:{tag} are neither in the cache ~/.cache/clip nor reachable ({error}). "
            f"Download {published['url']} where there is a network, and pass it with --checkpoint-clip FILE"
        ) from error


def check_plain(name: str, config: dict) -> None:
    """InputError for models that proxyclip.backbones.clip does not support, before anything is built."""
    if not is_plain(config):
        raise InputError(
            f"CLIP {name!r} is not supported, because its image encoder is not a standard vision transformer; "
            f"supported: {', '.join(plain_transformers())}"
        )


def is_plain(config: dict) -> bool:
    """Whether the image encoder is a pre-norm vision transformer with a class token and standard attention."""
    vision = config["vision_cfg"]
    unusual = (
        *("timm_model_name", "attentional_pool", "qk_norm", "scaled_cosine_attn"),
        *("scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"),
    )
    plain_text = "hf_model_name" not in config.get("text_cfg", {})
    resnet = isinstance(vision.get("layers"), list)
    other_class = "multimodal_cfg" in config or config.get("custom_text", False)
    return plain_text and not resnet and not other_class and not any(vision.get(k) for k in unusual)


def plain_transformers() -> list[str]:
    """open_clip's names of all supported models."""
    open_clip = import_library("open_clip")
    return [name for name in open_clip.list_models() if is_plain(open_clip.get_model_config(name))]


OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers stored with the weights


def is_openais(state: dict[str, Tensor]) -> bool:
    """Whether a checkpoint is an archive published by OpenAI: only those contain these numbers."""
    return any(name in state for name in OPENAI_EXTRAS)


def uses_quick_gelu(name: str, tag: str) -> bool:
    """The activation of published weights, or of the configuration for unknown weights."""
    open_clip = import_library("open_clip")
    default = open_clip.get_model_config(name).get("quick_gelu", False)
    return tag == "openai" or bool((open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu", default))


def warn_of_assumption(name: str, tag: str, file: str | Path) -> None:
    """Warns which activation is assumed for a file, if its architecture was published with both."""
    tags = ["random", *import_library("open_clip").list_pretrained_tags_by_model(name)]  # "random": the configuration's
    assumed = uses_quick_gelu(name, tag)
    others = [other for other in tags if uses_quick_gelu(name, other) != assumed]
    if not others:
        return
    other = next((tag for tag in others if tag.startswith("laion2b")), others[-1])
    activation, alternative = ("QuickGELU", "GELU") if assumed else ("GELU", "QuickGELU")
    warnings.warn(
        f"{file} does not say which activation it was trained with: assuming {activation}, as in {name}:{tag}. "
        f"To choose, name the weights as well: clip={name}:{tag} with checkpoint_clip=FILE for {activation}, "
        f"clip={name}:{other} with checkpoint_clip=FILE for {alternative}",
        stacklevel=4,
    )
