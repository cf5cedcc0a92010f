"""Text embeddings of class names: all prompt templates are encoded and averaged, once per name.

Embeddings are cached for each name, on disk and with the model in memory. Both caches are keyed by the fingerprint of
the text weights, so embeddings of weights that have changed since are never used.

Shapes: Q names, P prompt templates, L tokens, E the joint embedding width, N rows of a cache file.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import RLock

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.checkpoints import cache_folder, import_library
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.files import write_whole
from proxyclip.runtime import progress_bar
from proxyclip.vocabulary import list_of_names, shortened

PROMPTS_PER_BATCH = 40  # half of CLIP's 80 templates: the shorter half is not padded to the longest prompt
MANY_PROMPTS = 2000  # with more, a progress bar
MAX_CHARACTERS = 1000  # far beyond CLIP's context; the tokenizer takes time quadratic in the length of a word
FILE_BYTES = 256 * 2**20  # per cache file: 130,000 names of ViT-B/16; the oldest rows go first
KEY_BYTES = 16

_encoding = RLock()  # one thread at a time, so that two that need the same names encode them once


def encode_names(clip: DenseCLIP, names, templates, average: bool = True, on_disk: bool = True) -> Tensor:
    """Unit vectors (Q, E) in float32 on the model's device: one embedding for each name.

    Each prompt's embedding is normalised, the prompts of a name are averaged, and the average is normalised again
    (Radford et al., 2021, §3.1.4). With average=False the result is (Q, P, E), a unit vector for each prompt.

    A name's embedding depends on that name alone, not on the others in the list, nor on the caller's autocast. While
    the text tower is trained, nothing is cached and gradients flow. on_disk: whether to use the cache on disk. Raises
    InputError for anything but a list of names and templates that contain {} in place of the name.
    """
    names, templates = list_of_names(names, "names"), check_templates(templates)
    if not names:
        raise InputError("names is an empty list; give at least one name")
    if clip.model.training and any(weight.requires_grad for weight in clip.text_parameters()):
        return encode_together(clip, names, templates, average)
    # Normal tensors, even if the caller is in inference mode: the next caller may be a training step.
    with torch.inference_mode(False), torch.no_grad(), exact_float32(clip.device), _encoding:
        rows = cached_rows(clip, names, templates, average=average, on_disk=on_disk)
        return torch.stack([rows[name] for name in names]).to(clip.device)  # (Q, E) or (Q, P, E)


def encode_name(clip: DenseCLIP, name: str, templates: tuple[str, ...], average: bool = True) -> Tensor:
    """The unit vector (E,) of one name, or one per template (P, E), without using the cache."""
    return encode_together(clip, [name], templates, average)[0]


def encode_together(clip: DenseCLIP, names, templates: tuple[str, ...], average: bool) -> Tensor:
    """Like `encode_name` for each name, (Q, E) or (Q, P, E), in as few batches as possible."""
    prompts = encode_prompts(clip, [fill(template, name) for name in names for template in templates])  # (Q * P, E)
    prompts = F.normalize(prompts, dim=-1).unflatten(0, (len(names), len(templates)))  # (Q, P, E)
    return F.normalize(prompts.mean(1), dim=-1) if average else prompts


def fill(template: str, name: str) -> str:
    """The prompt for a name."""
    return template.replace("{}", name[:MAX_CHARACTERS])


def encode_prompts(clip: DenseCLIP, prompts: list[str]) -> Tensor:
    """Joint embeddings (P, E) in float32 on the model's device, not normalised.

    Their last bits depend on which prompts are encoded together, because a batch is as long as its longest prompt.
    """
    tokens = clip.tokenizer(prompts)  # (P, L)
    order = tokens.argmax(-1).argsort(stable=True)  # prompts of similar length together
    batches = [clip.encode_text(tokens[batch].to(clip.device)).float() for batch in order.split(PROMPTS_PER_BATCH)]
    return torch.cat(batches)[order.argsort().to(clip.device)]  # (P, E)


def default_templates() -> tuple[str, ...]:
    """CLIP's 80 prompt templates for ImageNet, each with {} in place of the name."""
    return tuple(template("{}") for template in import_library("open_clip").OPENAI_IMAGENET_TEMPLATES)


def check_templates(templates) -> tuple[str, ...]:
    """The templates as a tuple; a single string is one template. InputError if one has no {} for the name."""
    templates = (templates,) if isinstance(templates, str) else list_of_names(templates, "templates")
    if not templates:
        raise InputError("templates is empty; ['{}'] uses the bare names")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"prompt template {template!r} has no {{}} for the name")
    return templates


# The caches


def cached_rows(
    clip: DenseCLIP, names, templates: tuple[str, ...], *, average: bool, on_disk: bool
) -> dict[str, Tensor]:
    """Name -> (E,) or (P, E) on the CPU: from memory, else from disk, else encoded and written to both."""
    memory, fingerprint = clip.text_embeddings, clip.fingerprint
    if fingerprint not in memory:  # the weights have changed
        memory.clear()
    rows = memory.setdefault(fingerprint, {}).setdefault((templates, average), {})
    missing = [name for name in dict.fromkeys(names) if name not in rows]
    if missing and not on_disk:
        rows.update(zip(missing, encode_together(clip, missing, templates, average).cpu(), strict=True))
    elif missing:
        file = cache_file(fingerprint, templates, clip.tokenizer(list(templates)).tolist(), average)
        read_or_encode(clip, missing, rows, file, templates, average=average)
    return rows


def read_or_encode(
    clip: DenseCLIP,
    missing: list[str],
    rows: dict[str, Tensor],
    file: Path | None,
    templates: tuple[str, ...],
    *,
    average: bool,
) -> None:
    """Adds the missing names to `rows`, from the cache file or by encoding them; the file gets what it lacks."""
    width = clip.visual.proj.shape[1]
    cached = read_rows(file, (width,) if average else (len(templates), width)) if file else {}
    work = zip(missing, name_keys(clip, missing, templates), strict=True)
    if len(missing) * len(templates) >= MANY_PROMPTS:
        work = progress_bar(work, len(missing), "encoding class names", "name")
    new = {}
    try:
        for name, key in work:
            if key in cached:
                rows[name] = cached[key].clone()  # not a view that would keep the whole file in memory
            else:
                rows[name] = new[key] = encode_name(clip, name, templates, average).cpu()
    finally:  # even when interrupted, so that nothing is encoded twice
        if new and file:
            add_rows(file, new)


def name_keys(clip: DenseCLIP, names: list[str], templates: tuple[str, ...]) -> list[bytes]:
    """A cache key for each name, from the name and its tokens; warns about names that are truncated."""
    longest = max(templates, key=len)
    tokens = clip.tokenizer(["", *(fill(longest, name) for name in names)])  # (1 + Q, L)
    padding, tokens = tokens[0, -1], tokens[1:]
    for name, full in zip(names, (tokens[:, -1] != padding).tolist(), strict=True):
        if full:
            warnings.warn(
                f"the name {shortened(name)} fills all {tokens.shape[1]} tokens that this "
                "CLIP accepts: the rest is ignored; choose a shorter name",
                stacklevel=2,
            )
    return [digest(parts) for parts in zip(names, tokens.tolist(), strict=True)]


def cache_file(*parts) -> Path | None:
    """The file for everything that the rows share: text weights, templates, tokenizer. None without a cache folder."""
    folder = cache_folder()
    return folder and folder / "text" / f"{digest(parts).hex()}.safetensors"


def digest(parts) -> bytes:
    """A key of 16 bytes from plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:KEY_BYTES]


def read_rows(file: Path, shape: tuple[int, ...], warn: Callable[[str], None] = warnings.warn) -> dict[bytes, Tensor]:
    """Key -> embedding of that shape, in float32; a file that cannot be used counts as empty, after a warning."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load(file.read_bytes())  # not mapped into memory: another process may replace the file
        keys, embeddings = stored["keys"], stored["embeddings"]
        if keys.dtype != torch.uint8 or embeddings.dtype != torch.float32:
            raise ValueError(f"types {keys.dtype} and {embeddings.dtype}")
        if keys.shape != (len(embeddings), KEY_BYTES) or embeddings.shape[1:] != shape:
            raise ValueError(f"wrong shapes: keys {[*keys.shape]}, embeddings {[*embeddings.shape]}")
        if not embeddings.isfinite().all():
            raise ValueError("values that are not finite")
    except FileNotFoundError:
        return {}
    except OSError as error:
        warn(f"text cache {file} cannot be read ({error.strerror}); rebuilding it")
        return {}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        warn(f"text cache {file} is corrupted ({error}); rebuilding it")
        return {}
    return {bytes(key): row for key, row in zip(keys.numpy(), embeddings, strict=True)}


def add_rows(file: Path, rows: dict[bytes, Tensor]) -> None:
    """Adds embeddings to the file; a folder that cannot be written to brings one warning per process.

    Several processes may write at the same time: each adds its rows to the current contents and replaces the file as a
    whole. A row lost in between is simply encoded again.
    """
    from safetensors.torch import save

    shape = next(iter(rows.values())).shape
    rows = read_rows(file, shape, warn=lambda message: None) | rows  # the warning came when it was first read
    newest = list(rows)[-max(1, FILE_BYTES // (4 * shape.numel())) :]
    keys = torch.frombuffer(bytearray(b"".join(newest)), dtype=torch.uint8).view(-1, KEY_BYTES)  # (N, 16)
    data = save({"keys": keys, "embeddings": torch.stack([rows[key] for key in newest])})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda part: part.write(data))
    except OSError as error:
        reason = f"{file.parent}: {error.strerror or error}"  # the name of the temporary file changes each time
        warn_once(f"text embeddings cannot be cached ({reason}); they will be computed again")


@cache
def warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)
