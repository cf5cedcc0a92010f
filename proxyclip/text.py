"""Words to unit vectors: every template filled in, encoded, averaged; kept on disk so that it happens once."""

import hashlib
import json
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.torchvision_shim import import_library
from proxyclip.backbones.weights import cache_folder
from proxyclip.errors import InputError
from proxyclip.files import write_whole

PROMPTS_PER_BATCH = 256


@torch.inference_mode()
def encode_queries(clip: DenseCLIP, queries: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
    """Unit vectors (Q, E) in float32: for each query its prompts' normalised embeddings, averaged, normalised again.

    As CLIP's authors ensemble prompts (Radford et al., 2021, §3.1.4). Embeddings come from the cache where they are
    in it; a progress bar shows while many are encoded.
    """
    file = cache_folder() / "text" / f"{cache_key(clip, queries, templates)}.safetensors"
    embeddings = read_cache(file, (len(queries), clip.visual.proj.shape[1]))
    if embeddings is None:
        embeddings = encode_prompts(clip, [t.replace("{}", q) for q in queries for t in templates])  # (Q * T, E)
        embeddings = F.normalize(embeddings, dim=-1).unflatten(0, (len(queries), len(templates))).mean(1)  # (Q, E)
        embeddings = F.normalize(embeddings, dim=-1)
        write_cache(file, embeddings)
    return embeddings


def encode_prompts(clip: DenseCLIP, prompts: list[str]) -> Tensor:
    """Joint embeddings (P, E) in float32, on the CPU, not normalised."""
    tokens = clip.tokenizer(prompts)  # (P, L)
    device = next(clip.model.parameters()).device
    order = tokens.argmax(-1).argsort()  # prompts of like length together: each batch is as short as its longest
    encoded = []
    with tqdm(total=len(prompts), desc="encoding prompts", unit="prompt", disable=len(prompts) < 2000) as bar:
        for batch in order.split(PROMPTS_PER_BATCH):
            encoded.append(clip.encode_text(tokens[batch].to(device)).float().cpu())  # (b, E)
            bar.update(len(batch))
    return torch.cat(encoded)[order.argsort()]  # (P, E)


def default_templates() -> tuple[str, ...]:
    """The 80 prompts that CLIP's authors made for ImageNet, each with a place {} for the name."""
    return tuple(template("{}") for template in import_library("open_clip").OPENAI_IMAGENET_TEMPLATES)


def check_templates(templates) -> tuple[str, ...]:
    """The templates as a tuple, or InputError where one has no place {} for the name."""
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates:
        raise InputError("no prompt templates were given; '{}' alone uses the bare names")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"prompt template {template!r} has no {{}} where the name goes")
    return templates


def cache_key(clip: DenseCLIP, queries: tuple[str, ...], templates: tuple[str, ...]) -> str:
    """Changes with the weights, the templates, the names and how the tokenizer reads these, with nothing else."""
    tokens = clip.tokenizer([*queries, *templates]).tolist()
    return hashlib.sha256(json.dumps([clip.fingerprint, templates, queries, tokens]).encode()).hexdigest()[:32]


def read_cache(file, shape: tuple[int, int]) -> Tensor | None:
    """The cached embeddings, or None where there are none that can be used."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        return None
    try:
        embeddings = load_file(file)["embeddings"]
        if embeddings.shape == shape and embeddings.isfinite().all():
            return embeddings
        reason = "wrong size or values"
    except (SafetensorError, OSError, KeyError) as error:
        reason = str(error)
    warnings.warn(f"text cache {file} is damaged ({reason}); it is built again", stacklevel=2)
    return None


def write_cache(file, embeddings: Tensor) -> None:
    """So that a reader never meets half a file; a folder that cannot be written to costs time, nothing else."""
    from safetensors.torch import save

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda part: part.write(save({"embeddings": embeddings.contiguous()})))
    except OSError as error:
        warnings.warn(f"text embeddings cannot be cached ({error}); they will be computed again", stacklevel=2)
