"""Building a CLIP by name: open_clip's architecture, weights from the hub, an official file or a local folder."""

import json
from pathlib import Path

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.clip_activation import OPENAI_EXTRAS, is_openais, uses_quick_gelu, warn_of_assumption
from proxyclip.backbones.random_weights import fixed_seed
from proxyclip.backbones.torchvision_shim import import_library
from proxyclip.backbones.weights import download, load_strict, read_checkpoint
from proxyclip.errors import InputError, NotFound, nearest

DEFAULT_WEIGHTS = {"ViT-H-14": "laion2b_s32b_b79k"}  # every other model: "openai" where OpenAI published it


def load(spec: str, checkpoint: str | Path | None = None) -> DenseCLIP:
    """A CLIP in float32 on the CPU, in evaluation mode.

    spec: "ViT-B-16:openai" (open_clip's names), "ViT-B-16" (the best known weights), "ViT-B-16:random" (seeded random
    weights), "ViT-B-16:FILE", or a folder with open_clip_config.json and weights. `checkpoint` is a file that is used
    in place of the named weights: open_clip's own, or one that OpenAI published.

    Some trainings of an architecture use QuickGELU and others GELU, and weights alone do not tell which. So a file goes
    with the training that `spec` names; without a name, OpenAI's archives are recognised, and for other files of an
    architecture that was published with both a warning says which one is assumed.
    """
    open_clip = import_library("open_clip")
    if Path(spec).is_dir():
        return from_folder(Path(spec), checkpoint)
    name, tag, file = parse(spec)
    if checkpoint and file:
        raise InputError(f"the CLIP's weights are given twice: {spec!r} and checkpoint {str(checkpoint)!r}")
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
    """Architecture, name of the weights, and their file if one is named; an unknown name raises InputError."""
    open_clip = import_library("open_clip")
    if Path(spec).is_dir():
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
        if not Path(weights).is_file():
            raise NotFound(f"CLIP checkpoint {weights} does not exist")
        return name, best, weights
    if weights and weights not in (*tags, "random"):
        raise InputError(f"unknown weights {weights!r} of CLIP {name}; {nearest(weights, [*tags, 'random'])}")
    return name, weights or best, None


def patch_size(spec: str) -> int:
    """The side of a CLIP's patches in pixels, from its configuration alone."""
    open_clip = import_library("open_clip")
    file = Path(spec) / "open_clip_config.json"
    if file.is_file():
        return read_folder_config(file)["model_cfg"]["vision_cfg"].get("patch_size", 16)
    return open_clip.get_model_config(parse(spec)[0])["vision_cfg"].get("patch_size", 16)


def from_folder(folder: Path, checkpoint: str | Path | None) -> DenseCLIP:
    """From open_clip's own folder layout: open_clip_config.json, weights beside it, paths in it relative to it."""
    open_clip = import_library("open_clip")
    file = folder / "open_clip_config.json"
    if not file.is_file():
        raise NotFound(f"folder {folder} holds no open_clip_config.json, so it is not a CLIP in open_clip's layout")
    settings = read_folder_config(file)
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
        raise NotFound(f"folder {folder} holds no weights: open_clip_model.safetensors is expected there")
    state, preprocess = read_checkpoint(weights, torchscript=True), settings.get("preprocess_cfg", {})
    return build(config, state, tokenizer, preprocess, str(folder), str(weights))


def read_folder_config(file: Path) -> dict:
    """The contents of open_clip_config.json; InputError unless it has the entries that are used here."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        config = settings["model_cfg"]
        config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not open_clip's ({type(error).__name__}: {error})") from error
    return settings


def build(config: dict, state, tokenizer, preprocess: dict, name: str, source: str) -> DenseCLIP:
    """The model with the weights in it; `state` None leaves the library's random ones, from a seed of their own."""
    open_clip = import_library("open_clip")
    if state is not None and is_openais(state) and not config.get("quick_gelu"):
        raise InputError(
            f"{source} is an archive of OpenAI, trained with QuickGELU, but {name} uses GELU; name openai's training "
            "beside it, for example ViT-B-16:openai, or in a folder's configuration set quick_gelu to true"
        )
    with fixed_seed():
        try:
            model = open_clip.CLIP(**config)
        except TypeError as error:
            raise InputError(f"open_clip cannot build {name} from its configuration: {error}") from error
    if state is not None:
        load_strict(model, {key: value for key, value in state.items() if key not in OPENAI_EXTRAS}, source)
    mean = tuple(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(preprocess.get("std") or open_clip.OPENAI_DATASET_STD)
    return DenseCLIP(model.requires_grad_(False), tokenizer, mean, std, name).eval()


def fetch(name: str, tag: str) -> Path:
    """The file of a published training's weights, from the local cache or the network."""
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
            f"the weights of CLIP {name}:{tag} are neither in the cache ~/.cache/clip nor reachable ({error}). Where "
            f"there is a network, fetch {published['url']} and pass it with --checkpoint-clip FILE"
        ) from error


def check_plain(name: str, config: dict) -> None:
    """Refuses models that the walk of proxyclip.backbones.clip does not cover, before anything is built."""
    if not is_plain(config):
        raise InputError(
            f"CLIP {name!r} has no plain vision transformer whose last block has values to take; "
            f"these have: {', '.join(plain_transformers())}"
        )


def is_plain(config: dict) -> bool:
    """Whether the image tower is a pre-norm vision transformer with a class token and ordinary attention."""
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
    """open_clip's names of all models that can be used here."""
    open_clip = import_library("open_clip")
    return [name for name in open_clip.list_models() if is_plain(open_clip.get_model_config(name))]
