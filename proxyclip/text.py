"""Text embeddings of class names: all prompt templates are encoded and averaged, once per name.

Shapes: Q names, P prompt templates, L tokens, E the joint embedding width.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip import text_cache, text_tower
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.torchvision_shim import import_library
from proxyclip.errors import InputError
from proxyclip.progress_bar import progress_bar
from proxyclip.text_memory import TextMemory, forget, memory_of, text_parameters
from proxyclip.vocabulary import list_of_names, shortened

PROMPTS_PER_BATCH = 40  # half of CLIP's 80 templates: the shorter half is not padded to the longest prompt
MANY_PROMPTS = 2000  # with more, a progress bar
MAX_CHARACTERS = 1000  # far beyond CLIP's context; the tokenizer takes time quadratic in the length of a word


def encode_names(clip: DenseCLIP, names, templates, average: bool = True, on_disk: bool = True) -> Tensor:
    """Unit vectors (Q, E) in float32 on the device of the image tower: one embedding for each name.

    Each prompt's embedding is normalised, the prompts of a name are averaged, and the average is normalised again
    (Radford et al., 2021, §3.1.4). With average=False the result is (Q, P, E), a unit vector for each prompt.

    A name's embedding depends on that name alone, not on the others in the list. Embeddings are cached for each name,
    on disk and in memory, until a text weight changes; the result is shared with that cache, and a caller that changes
    it in place makes the next call compute it again. While the text tower is trained nothing is cached and gradients
    flow. on_disk: whether to use the cache on disk. Raises InputError for anything but a list of names and templates
    with a place {} for the name.
    """
    names, templates = list_of_names(names, "names"), check_templates(templates)
    if not names:
        raise InputError("names is an empty list; give at least one name")
    weights = text_parameters(clip)
    if clip.model.training and any(weight.requires_grad for weight in weights):
        forget(clip)
        return encode_together(clip, names, templates, average)
    # Normal tensors, even if the caller is in inference mode: the next caller may be a training step.
    with torch.inference_mode(False), torch.no_grad():
        memory, device = memory_of(clip, weights), text_tower.home(clip)
        key = (names, templates, average, device)
        embeddings = memory.get(key)
        if embeddings is None:
            with text_tower.ENCODING:
                rows = cached_rows(clip, memory, names, templates, average, on_disk)
                text_tower.park(clip, memory)
            embeddings = torch.stack([rows[name] for name in names]).to(device)  # (Q, E) or (Q, P, E)
            memory.put(key, embeddings)
    return embeddings


def encode_name(clip: DenseCLIP, name: str, templates: tuple[str, ...], average: bool = True) -> Tensor:
    """The unit vector (E,) of one name, or one per template (P, E), without using the cache."""
    prompts = encode_prompts(clip, [fill(template, name) for template in templates])  # (P, E)
    prompts = F.normalize(prompts, dim=-1)
    return F.normalize(prompts.mean(0), dim=-1) if average else prompts


def encode_together(clip: DenseCLIP, names, templates: tuple[str, ...], average: bool) -> Tensor:
    """Like `encode_name` for each name, (Q, E) or (Q, P, E), in as few batches as possible."""
    prompts = encode_prompts(clip, [fill(template, name) for name in names for template in templates])  # (Q * P, E)
    prompts = F.normalize(prompts, dim=-1).unflatten(0, (len(names), len(templates)))  # (Q, P, E)
    return F.normalize(prompts.mean(1), dim=-1) if average else prompts


def fill(template: str, name: str) -> str:
    """The prompt for a name."""
    return template.replace("{}", name[:MAX_CHARACTERS])


def encode_prompts(clip: DenseCLIP, prompts: list[str]) -> Tensor:
    """Joint embeddings (P, E) in float32 on the device of the image tower, not normalised.

    Their last bits depend on which prompts are encoded together, because a batch is as long as its longest prompt.
    """
    tokens = clip.tokenizer(prompts)  # (P, L)
    device = text_tower.fetch(clip)
    order = tokens.argmax(-1).argsort(stable=True)  # prompts of similar length together
    batches = [clip.encode_text(tokens[batch].to(device)).float() for batch in order.split(PROMPTS_PER_BATCH)]
    return torch.cat(batches)[order.argsort().to(device)]  # (P, E)


def cached_rows(
    clip: DenseCLIP, memory: TextMemory, names, templates, average: bool, on_disk: bool
) -> dict[str, Tensor]:
    """Name -> (E,) or (P, E) on the CPU: from memory, else from disk, else encoded and written to both."""
    rows = {name: memory.get((name, templates, average)) for name in names}
    missing = [name for name, row in rows.items() if row is None]
    if not missing:
        return rows
    if not on_disk:
        with text_tower.encoding(clip):
            found = encode_together(clip, missing, templates, average).cpu()
        return rows | dict(zip(missing, found, strict=True))
    memory.fingerprint = memory.fingerprint or clip.fingerprint
    file = text_cache.file_for(memory.fingerprint, templates, clip.tokenizer(list(templates)).tolist(), average)
    width = clip.visual.proj.shape[1]
    cached = text_cache.read_rows(file, (width,) if average else (len(templates), width))
    new = {}
    work = zip(missing, name_keys(clip, missing, templates), strict=True)
    if len(missing) * len(templates) >= MANY_PROMPTS:
        work = progress_bar(work, len(missing), "encoding class names", "name")
    try:
        for name, key in work:
            row = cached.get(key)
            if row is None:
                with text_tower.encoding(clip):
                    row = new[key] = encode_name(clip, name, templates, average).cpu()
            rows[name] = row.clone()  # not a view that would hold the whole file
            memory.put((name, templates, average), rows[name])
    finally:  # even when interrupted, so that nothing is encoded twice
        if new:
            text_cache.add_rows(file, new)
    return rows


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
    return [text_cache.digest(parts) for parts in zip(names, tokens.tolist(), strict=True)]


def default_templates() -> tuple[str, ...]:
    """CLIP's 80 prompt templates for ImageNet, each with a place {} for the name."""
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
