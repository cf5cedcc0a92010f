"""Trained heads small enough for tests, as this project and as the published codebases store them."""

from collections import OrderedDict

import numpy as np
import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import heads
from heads import find_head
from heads.checkpoint import save_checkpoint
from heads.mask_decoder import QueryUpdate
from proxyclip.backbones import build_clip
from proxyclip.errors import InputError
from proxyclip.vocabulary import Vocabulary

CLASSES, SEEN = ("sky", "grass", "car", "boat", "tree"), ("sky", "car", "tree")
SIZES = {"image_size": 48, "short_side": 40, "crop": 32, "stride": 16, "prompts": 3, "decoder_heads": 2}
OWN = {"zegclip": {}, "otseg": {"templates": ("a {}.", "one {}")}, "cascade_clip": {"levels": (0, 1), "group_size": 1}}
LAYERS = {"vision": {"layers": 4}}  # what Cascade-CLIP needs
TRAINING = {"dataset": "garden", "setting": "inductive", "iteration": 7}


def clip_folder(folder) -> str:
    """A CLIP on disk."""
    return str(folder) if folder.exists() else tiny_clip.save_folder(folder, **LAYERS)


def head(name: str, clip, classes=CLASSES, seen=SEEN, seed: int = 0, **options):
    """A head with weights that all matter. clip: a folder, or a CLIP."""
    clip = build_clip.load(clip) if isinstance(clip, str) else clip
    found = find_head(name)
    torch.manual_seed(seed)
    made = found.Head(clip, found.Options(**SIZES | OWN[name] | options), classes, seen).eval()
    with torch.no_grad():
        for name, tensor in made.trained().items():
            tensor += 0.0 if name == "stored_text" else 0.05 * torch.randn(tensor.shape)
    return made


def saved(folder, name: str = "zegclip", clip=None, training=TRAINING, **more) -> str:
    """The folder of a training run with a last checkpoint. clip: its folder, made if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    made = head(name, clip or clip_folder(folder.parent / "clip"), **more)
    save_checkpoint(folder / "last.safetensors", made, training)
    return str(folder)


def scores(model, classes=CLASSES) -> torch.Tensor:
    """Of two windows."""
    crops = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.window_scores(crops, model.encode_classes(Vocabulary.parse(classes)))


def official_state(model, counted: int = len(SEEN)) -> dict[str, torch.Tensor]:
    """The state dict that the published code has for a head; dead weights are random. counted: classes of its loss."""
    state = {}
    for name, value in model.clip.model.state_dict().items():
        if name != "logit_scale":
            tower = "backbone." if name.startswith("visual.") else "text_encoder."
            state[tower + name.removeprefix("visual.")] = value
    visual, encoder, side = model.clip.visual, model.encoder, model.encoder.grid
    table = visual.positional_embedding  # (1 + M * M, D)
    patches = F.interpolate(table[1:].T.unflatten(1, visual.grid_size)[None], (side, side), mode="bilinear")
    state["backbone.positional_embedding"] = torch.cat([table[:1], patches[0].flatten(1).T])
    first = 0 if encoder.first else 1
    state |= {"backbone.prompt_embeddings": encoder.prompts[:1]} if first else {}
    state |= {"backbone.deep_prompt_embeddings": encoder.prompts[first:]} if len(encoder.prompts) > first else {}
    put(state, "backbone.prompt_proj", encoder.projection)
    if encoder.norm is not None:
        put(state, "backbone.prompt_norm", encoder.norm)
    cascade = hasattr(model, "decoders")
    if cascade:
        for number, norm in enumerate(model.level_norms):
            put(state, f"backbone.ln_layers.{number}", norm)
        for number, weights in enumerate(model.weights, start=1):
            state[f"decode_head.weights_s{number}"] = weights
        state["backbone.proj_layers"] = model.level_projections
    for number, descriptor in enumerate(model.descriptors if cascade else [model.descriptor]):
        put(state, f"decode_head.q_projs.{number}" if cascade else "decode_head.q_proj", descriptor.projection)
    for number, decoder in enumerate(model.decoders if cascade else [model.decoder]):
        put_decoder(state, f"decode_head.cascade_decoders.{number}" if cascade else "decode_head.decoder_1", decoder)
    state["decode_head.loss_decode.criterion.empty_weight"] = torch.ones(counted + 1)
    return {name: value.detach().clone() for name, value in state.items()}


def put(state: dict, name: str, module) -> None:
    state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}


def put_decoder(state: dict, name: str, decoder) -> None:
    """All layers have all weights, used or not."""
    last = getattr(decoder, "masks", None)
    attentions = [*decoder.attentions, *([last] if last is not None else [])]
    width = attentions[0].query.out_features
    for number, attention in enumerate(attentions):
        layer = f"{name}.layers.{number}"
        for part, own in (("q", "query"), ("k", "key"), ("v", "value"), ("proj", "projection")):
            put(state, f"{layer}.multihead_attn.{part}", getattr(attention, own, None) or torch.nn.Linear(width, width))
        update = decoder.updates[number] if number < len(decoder.updates) else QueryUpdate(width, 0.0)
        parts = {"linear1": "widen", "linear2": "narrow", "norm2": "norm_attention", "norm3": "norm_network"}
        for part, own in parts.items():
            put(state, f"{layer}.{part}", getattr(update, own))
        put(state, f"{layer}.norm1", torch.nn.LayerNorm(width))
        put(state, f"{layer}.self_attn", torch.nn.MultiheadAttention(width, 1))


def save_official(path, model, prefix: str = "", meta=None, whole=True, **more) -> str:
    """As mmsegmentation writes it."""
    named = {prefix + name: value for name, value in (official_state(model) | more).items() if value is not None}
    if str(path).endswith(".safetensors"):
        save_file(named, path)
        return str(path)
    state = OrderedDict(named)
    state._metadata = OrderedDict({"": {"version": 1}})  # as of every module
    meta = {"mmcv_version": "1.4.4", "config": "model = dict()", "iter": 20000} | (meta or {})
    torch.save(
        {"meta": meta, "state_dict": state, "optimizer": {"state": {}}}, path, _use_new_zipfile_serialization=whole
    )
    return str(path)


def refused(path, words: str, build: bool = False, **choices) -> None:
    """One sentence with these words. build: whether weights may be loaded before it is known."""
    with pytest.raises(InputError, match=words) as found:
        planned = heads.plan(path, **choices)
        assert build, "not refused before weights are loaded"
        planned.build()
    assert "\n" not in str(found.value)


def embeddings_file(path, shape, seed: int = 0) -> str:
    np.save(path, np.random.default_rng(seed).normal(size=shape).astype(np.float32))
    return str(path)
