"""Published checkpoints: files of the heads' own projects, with the weights of a whole model, CLIP included.

Three layouts are read; here, all of CLIP is `clip.model.`, with open_clip's names.

- ZegCLIP, OTSeg, Cascade-CLIP: `backbone.` holds CLIP's image tower and the prompts, `text_encoder.` CLIP's text tower,
  `decode_head.` the decoder. ZegCLIP and OTSeg have the same names and shapes.
- CAT-Seg: `sem_seg_head.predictor.clip_model.` holds CLIP, `sem_seg_head.predictor.transformer.` aggregation and
  decoder, `upsample1.` and `upsample2.` the lifts of CLIP's middle blocks.
- CAT-Seg among mmsegmentation's projects: `backbone.clip_model.` holds CLIP, `backbone.feature_extractor.` the guidance
  backbone, `neck.` the aggregation, `decode_head.` the decoder. Inside, modules are named as by the authors, or as the
  building blocks of mmcv and mmsegmentation name theirs.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from heads import find_head
from heads.cat_seg_backbone import fixed_part, is_tuned
from heads.checkpoint import CheckpointMetadata, StoredHead, check_options, check_same_names, sizes_of
from heads.prompted_encoder import MEAN, STD
from proxyclip.backbones import build_clip
from proxyclip.backbones.build_clip import uses_quick_gelu
from proxyclip.backbones.checkpoints import import_library, read_whole, some, unwrap
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.errors import InputError

CLIP = "clip.model."
POSITIONS, PATCHES = f"{CLIP}visual.positional_embedding", f"{CLIP}visual.conv1.weight"
TOLERANCE = 1e-3  # relative to a tensor's norm: the rounding of float16 is below 5e-4
STRIDE = 426  # of most published runs of the first three heads
COUNT = "decode_head.loss_decode.criterion.empty_weight"  # one for each class that training had labels of, and one
COUNT_SEEN = (  # transductive runs whose loss counts the seen classes alone: dataset and head
    *(("coco_stuff164k", head) for head in ("zegclip", "otseg", "cascade_clip")),
    ("context59", "cascade_clip"),
)
BASE = "ViT-B-16:openai"
LARGER = {  # with patches of 14 pixels: width of the image tower -> CLIP
    1024: "ViT-L-14-336:openai",
    1280: "ViT-H-14:laion2b_s32b_b79k",
    1664: "ViT-bigG-14:laion2b_s39b_b160k",
}

# What names become, one rule after the other.
ATTENTION = {"q": "query", "k": "key", "v": "value", "qk": "query_key", "proj": "projection"}


def attention(match: re.Match) -> str:
    return f"{match[1]}.{ATTENTION[match[2]]}."


PROMPTED = (
    (r"^text_encoder\.", CLIP),
    (r"^backbone\.prompt_proj\.", "encoder.projection."),
    (r"^backbone\.prompt_norm\.", "encoder.norm."),
    (r"^backbone\.ln_layers\.", "level_norms."),
    (r"^backbone\.proj_layers$", "level_projections"),
    (r"^backbone\.", f"{CLIP}visual."),
    (r"^decode_head\.q_proj\.", "descriptor.projection."),
    (r"^decode_head\.q_projs\.(\d+)\.", r"descriptors.\1.projection."),
    (r"^decode_head\.decoder_1\.layers\.", "decoder.layers."),
    (r"^decode_head\.cascade_decoders\.(\d+)\.layers\.", r"decoders.\1.layers."),
    (r"^(decoder.*)\.layers\.(\d+)\.multihead_attn\.", r"\1.attentions.\2."),
    (r"(\.attentions\.\d+)\.(q|k|v|proj)\.", attention),
    (r"^(decoder.*)\.layers\.(\d+)\.linear1\.", r"\1.updates.\2.widen."),
    (r"^(decoder.*)\.layers\.(\d+)\.linear2\.", r"\1.updates.\2.narrow."),
    (r"^(decoder.*)\.layers\.(\d+)\.norm2\.", r"\1.updates.\2.norm_attention."),
    (r"^(decoder.*)\.layers\.(\d+)\.norm3\.", r"\1.updates.\2.norm_network."),
)
CAT_SEG = (
    (r"^(sem_seg_head\.predictor|backbone)\.clip_model\.visual\.transformer\.prompt_tokens$", "prompts"),
    (r"^(sem_seg_head\.predictor|backbone)\.clip_model\.", CLIP),
    (r"^backbone\.feature_extractor\.", "guidance_backbone.features."),
    (r"^upsample1\.", "guidance_lifts.0."),
    (r"^upsample2\.", "guidance_lifts.1."),
    (r"^(sem_seg_head\.predictor\.transformer|neck|decode_head)\.", "aggregator."),
    (r"^aggregator\.(conv1|corr_embed(\.conv)?)\.", "aggregator.embed."),
    (r"^aggregator\.guidance_projection\.(0|conv)\.", "aggregator.image_guidance."),
    (r"^aggregator\.text_guidance_projection\.0\.", "aggregator.text_guidance."),
    (r"^aggregator\.decoder_guidance_projection\.(\d)\.(0|conv)\.", r"aggregator.decoder_guidance.\1."),
    (r"^aggregator\.(head|conv_seg)\.", "aggregator.score."),
    (r"^aggregator\.decoder1\.", "aggregator.upsampling.0."),
    (r"^aggregator\.decoder2\.", "aggregator.upsampling.1."),
    (r"(upsampling\.\d)\.up\.", r"\1.lift."),
    (r"(upsampling\.\d)\.(conv\.double_conv\.0|conv1\.conv)\.", r"\1.first."),
    (r"(upsampling\.\d)\.(conv\.double_conv\.1|conv1\.gn)\.", r"\1.first_norm."),
    (r"(upsampling\.\d)\.(conv\.double_conv\.3|conv2\.conv)\.", r"\1.second."),
    (r"(upsampling\.\d)\.(conv\.double_conv\.4|conv2\.gn)\.", r"\1.second_norm."),
    (r"(aggregator\.layers\.\d+)\.(swin_block|spatial_agg)\.guidance_norm\.", r"\1.guidance_norm."),
    (r"(aggregator\.layers\.\d+)\.(swin_block|spatial_agg)\.block_1\.", r"\1.spatial.0."),
    (r"(aggregator\.layers\.\d+)\.(swin_block|spatial_agg)\.block_2\.", r"\1.spatial.1."),
    (r"(aggregator\.layers\.\d+)\.(attention|class_agg)\.", r"\1.classes."),
    (r"(\.spatial\.\d|\.classes)\.norm1\.", r"\1.norm_attention."),
    (r"(\.spatial\.\d|\.classes)\.norm2\.", r"\1.norm_network."),
    (r"(\.spatial\.\d|\.classes)\.(?:attn|attention)\.(?:w_msa\.)?(q|k|qk|v|proj)\.", attention),
    (r"(\.spatial\.\d|\.classes)\.(mlp\.fc1|MLP\.0|(ffn|MLP)\.layers\.0\.0)\.", r"\1.widen."),
    (r"(\.spatial\.\d|\.classes)\.(mlp\.fc2|MLP\.2|(ffn|MLP)\.layers\.1)\.", r"\1.narrow."),
    (r"\.classes\.padding_tokens$", ".classes.padding"),
)
CAT_SEG_PREFIXES = (
    *("sem_seg_head.predictor.clip_model.", "sem_seg_head.predictor.transformer."),
    *("backbone.clip_model.", "backbone.feature_extractor."),
)
UNUSED = (  # in results; or what follows from the sizes of windows
    r"^decode_head\.(decoder_1|cascade_decoders\.\d+)\.layers\.\d+\.(self_attn|norm1)\.",
    r"^decode_head\.loss_decode\.",
    r"\.(attn_mask|relative_position_index)$",
    r"\bclip_model\.logit_scale$",
)
LAYER = re.compile(r"(decoder|decoders\.\d+)\.(attentions|updates)\.(\d+)\.(.+)")


def own_name(name: str, head: str, last: int) -> str | None:
    """This project's name of a published weight, the same if it is not known; None if it takes part in no result.

    last: the number of the last layer of the decoder. Of that one only the scores are used; heads but OTSeg have a
    module for them.
    """
    if any(re.search(pattern, name) for pattern in UNUSED):
        return None
    for pattern, replacement in CAT_SEG if head == "cat_seg" else PROMPTED:
        name = re.sub(pattern, replacement, name)
    match = LAYER.fullmatch(name)
    if match is None or int(match[3]) != last:
        return name
    if not match[4].startswith(("query.", "key.")):
        return None
    return name if head == "otseg" else f"{match[1]}.masks.{match[4]}"


def own_weights(state: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Published weights under this project's names; what is not known is kept, so that a strict load names it."""
    if head != "cat_seg" or "decode_head.head.weight" in state:  # then mmsegmentation's own last layer is unused
        state = {name: value for name, value in state.items() if not name.startswith("decode_head.conv_seg.")}
    layers = re.findall(r"\b(?:decoder_1|cascade_decoders\.\d+)\.layers\.(\d+)\.", "\n".join(state))
    last = max(map(int, layers), default=-1)
    named = {own_name(name, head, last): value for name, value in state.items()}
    named.pop(None, None)
    if head == "cat_seg":
        return joined(named)
    prompts = [named.pop(f"{CLIP}visual.{name}", None) for name in ("prompt_embeddings", "deep_prompt_embeddings")]
    if prompts[1] is None:  # the published encoder has a norm, but it norms nothing
        named = {name: value for name, value in named.items() if not name.startswith("encoder.norm.")}
    if prompts := [part for part in prompts if part is not None]:
        named["encoder.prompts"] = torch.cat(prompts)  # (N, P, D)
    if "decode_head.weights_s1" in named:
        named["weights"] = torch.stack([named.pop(f"decode_head.weights_s{group}") for group in (1, 2)])
    return named


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with CLIP's projections of queries, keys and values in one, and those of the aggregation apart."""
    result = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.+\.attn\.)[qkv]_proj_weight", name)
        parts = [f"{match[1]}{part}_proj_weight" for part in "qkv"] if match else []
        if ".query_key." in name:
            for part, rows in zip(("query", "key"), value.chunk(2), strict=True):
                result[name.replace("query_key", part)] = rows
        elif not parts or not all(part in state for part in parts):
            result[name] = value
        elif name == parts[0]:
            result[f"{match[1]}in_proj_weight"] = torch.cat([state[part] for part in parts])  # (3 D, D)
    return result


class PublishedCheckpoint(StoredHead):
    """A published checkpoint; its methods are those of `heads.checkpoint.Checkpoint`."""

    def read(self, place: str = "cpu") -> dict[str, Tensor]:
        """Name -> tensor, under this project's names. place: "meta" for shapes alone."""
        return own_weights(unwrap(read_whole(self.file, place=place), self.file), self.metadata.head)

    def peek(self, clip: DenseCLIP) -> dict[str, Tensor]:
        """Shapes alone; InputError unless those of its CLIP are those of `clip`."""
        state = self.read("meta")
        self.check_clip(clip, state)
        return state

    def own_clip(self, state: dict[str, Tensor]) -> DenseCLIP | None:
        """The CLIP that the file holds; None if it holds the image tower alone."""
        weights = {name.removeprefix(CLIP): value for name, value in state.items() if name.startswith(CLIP)}
        if "token_embedding.weight" not in weights:
            return None
        spec = self.metadata.clip
        name, tag, _ = build_clip.parse(spec)
        config = build_clip.config_of(spec) | {"quick_gelu": uses_quick_gelu(name, tag)}
        if self.metadata.head != "cat_seg":  # the position table is that of the training crops
            config["vision_cfg"] = config["vision_cfg"] | {"image_size": self.metadata.options["image_size"]}
        open_clip = import_library("open_clip")
        preprocess = open_clip.get_pretrained_cfg(name, tag) or {}
        weights["logit_scale"] = torch.tensor(math.log(100))  # of all of them; no head uses it
        return build_clip.build(config, weights, open_clip.get_tokenizer(name), preprocess, spec, str(self.file))

    def check_clip(self, clip: DenseCLIP, state: dict[str, Tensor]) -> None:
        """InputError unless what training did not change of the file's CLIP is this one, within rounding."""
        stored = {name.removeprefix(CLIP): value for name, value in state.items() if name.startswith(CLIP)}
        expected = {name: value for name, value in clip.model.state_dict().items() if name != "logit_scale"}
        if not any(name.startswith("transformer.") for name in stored):  # its text embeddings came from a file
            expected = {name: value for name, value in expected.items() if name.startswith("visual.")}
        source = f"checkpoint {self.file} holds another CLIP than {clip.name}"
        for problem, names in (
            ("lacks", expected.keys() - stored.keys()),
            ("has unknown", stored.keys() - expected.keys()),
        ):
            if names:
                raise InputError(f"{source}: it {problem} {some(sorted(names))}")
        table = POSITIONS.removeprefix(CLIP)
        side = math.isqrt(len(stored[table]) - 1)
        if self.metadata.head != "cat_seg" and side**2 == len(stored[table]) - 1:
            expected[table] = resized(clip.visual.positional_embedding, clip.visual.grid_size, side)
        if wrong := [name for name, value in expected.items() if self.differ(name, stored[name], value)]:
            raise InputError(f"{source}: {some(sorted(wrong))} differ")

    def differ(self, name: str, stored: Tensor, expected: Tensor) -> bool:
        """Whether what training did not change of a weight of CLIP differs by more than the stored one's rounding."""
        if stored.shape != expected.shape or expected.is_meta:
            return stored.shape != expected.shape
        tolerance = max(TOLERANCE, torch.finfo(stored.dtype).eps / 2) if stored.is_floating_point() else TOLERANCE
        stored, expected = (fixed_part(name, value.float(), self.mode) for value in (stored, expected))
        return not torch.linalg.vector_norm(stored - expected) <= tolerance * torch.linalg.vector_norm(expected)

    @property
    def mode(self) -> str:
        """Which weights of CLIP were trained: see `heads.cat_seg_backbone.tune`."""
        return self.metadata.options.get("finetune", "frozen")

    def weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The trained weights of a state."""
        of_clip = {name: name.removeprefix(CLIP) for name in state if name.startswith(CLIP)}
        frozen = {name for name, inner in of_clip.items() if not is_tuned(inner, self.mode)}
        return {name: value for name, value in state.items() if name not in frozen}


def resized(table: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """A position table (1 + M * M, D) for side × side patches, as training starts from it: (1 + side * side, D)."""
    image = table[1:].float().T.unflatten(1, grid)[None]  # (1, D, M, M)
    image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)  # (1, D, side, side)
    return torch.cat([table[:1].float(), image[0].flatten(1).T])  # (1 + side * side, D)


def open_published(
    file: Path,
    head: str | None,
    classes: Sequence[str] | None,
    seen: Sequence[str] | None,
    assumed: Mapping,
    training: Mapping,
) -> PublishedCheckpoint:
    """A published checkpoint with what its shapes, and its names of classes if it has any, tell of its head.

    head, classes, seen: as the caller knows them. assumed: options that training is known to have had. training: see
    `CheckpointMetadata`. No weight depends on the classes of the training. Without `classes`, a CAT-Seg has those that
    the file names, or none; without `seen`, its training had labels of all. Raises InputError where something is
    missing or contradicts the file.
    """
    whole, source = read_whole(file, place="meta"), f"checkpoint {file}"
    state = unwrap(whole, file)
    head = head_of(state, head, source)
    weights = own_weights(state, head)
    needed = {POSITIONS: 2, PATCHES: 4}
    if absent := [name for name, dim in needed.items() if name not in weights or weights[name].dim() != dim]:
        raise InputError(f"{source} lacks {some(absent)}")
    stored = stored_classes(whole)
    if stored is not None and classes is not None:
        check_same_names("classes", map(plain, classes), map(plain, stored), source)
    classes = stored if classes is None else classes
    assumed = dict(assumed)
    if head == "cat_seg":
        classes = () if classes is None else classes
        seen = classes if seen is None else seen
        if not classes and assumed.get("text_embeddings") is not None:
            raise InputError(f"{source} does not say which classes text_embeddings are of: give classes")
        width, patch = weights[PATCHES].shape[0], weights[PATCHES].shape[-1]
        clip = BASE if patch == 16 else LARGER.get(width, LARGER[1024])
        mean, std = build_clip.normalisation(clip)
        published, told = cat_seg_options(state, weights, assumed, source)
    else:
        if lacking := " and ".join(name for name, value in (("classes", classes), ("seen", seen)) if value is None):
            raise InputError(
                f"{source} does not say which classes it was trained on: give {lacking}, or its training "
                "configuration (--train-config)"
            )
        clip, mean, std = BASE, MEAN, STD
        published, told = prompted_options(state, weights, assumed, source)
    if unknown := [name for name in seen if name not in classes]:
        raise InputError(f"seen names {some(unknown)}, not among the classes")
    if COUNT in state and is_transductive(len(state[COUNT]) - 1, len(classes), len(seen), head, training, source):
        published["seen_penalty"] = 0.0
    told |= sizes_of(head, weights, source)
    check_options(assumed, told, source)
    metadata = CheckpointMetadata(
        head=head,
        options=published | assumed | told,
        classes=tuple(classes),
        seen=tuple(seen),
        clip=clip,
        clip_fingerprint="",
        known_words=None,
        mean=mean,
        std=std,
        version="",
        training=dict(training),
    )
    return PublishedCheckpoint(file, metadata)


def head_of(state: Mapping[str, Tensor], name: str | None, source: str) -> str:
    """The name of the head, from the names of its weights; where these leave it open, the given `name`."""
    if any(key.startswith(CAT_SEG_PREFIXES) for key in state):
        fitting = ("cat_seg",)
    elif any(key.startswith("decode_head.cascade_decoders.") for key in state):
        fitting = ("cascade_clip",)
    elif any(key.startswith("decode_head.decoder_1.") for key in state):
        fitting = ("zegclip", "otseg")
    else:
        raise InputError(
            f"{source} is of no known kind: neither written by training here nor by ZegCLIP, OTSeg, Cascade-CLIP or "
            "CAT-Seg"
        )
    if name not in (None, *fitting):
        find_head(name)
        raise InputError(f"{source} is of {' or '.join(fitting)}, not of {name}")
    if name is None and len(fitting) > 1:
        raise InputError(
            f"{source} is of zegclip or of otseg, whose weights have the same names: say which head it is, or name its "
            "training configuration (--train-config)"
        )
    return name or fitting[0]


def stored_classes(whole: Mapping) -> tuple[str, ...] | None:
    """The names of classes in a file, as older and newer versions of mmsegmentation write them."""
    meta = whole.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    newer = meta.get("dataset_meta")
    names = newer.get("classes") if isinstance(newer, dict) else meta.get("CLASSES")
    return tuple(names) if isinstance(names, (tuple, list)) else None


def is_transductive(count: int, classes: int, seen: int, head: str, training: Mapping, source: str) -> bool:
    """Whether training had pseudo labels of the unseen classes. InputError for another setting than that of `training`.

    count: of classes in the loss, those that training had labels of. classes, seen: as given.
    """
    if count not in (classes, seen):
        raise InputError(
            f"{source} was trained with other classes than those given: {count}, not {classes}, {seen} of them seen"
        )
    setting = training.get("setting")
    if seen == classes or setting == "transductive" and (training.get("dataset"), head) in COUNT_SEEN:
        return setting == "transductive"
    told, which = ("inductive", "the seen") if count == seen else ("transductive", "all")
    if setting not in (None, told):
        raise InputError(
            f"{source} is of {told} training: its loss has {which} {count} classes, but that of {setting} training has "
            f"{seen if setting == 'inductive' else classes}; choose the {told} configuration"
        )
    return told == "transductive"


def prompted_options(state: Mapping, weights: Mapping, assumed: dict, source: str) -> tuple[dict, dict]:
    """Of ZegCLIP, OTSeg and Cascade-CLIP: options of published runs, and what the weights tell beyond `Head.sizes`."""
    patches, patch = len(weights[POSITIONS]) - 1, weights[PATCHES].shape[-1]
    if math.isqrt(patches) ** 2 != patches:
        raise InputError(f"{source} has positions for {patches} patches, which form no square")
    if "encoder.prompts" not in weights:
        raise InputError(f"{source} has no prompts")
    side, further = math.isqrt(patches) * patch, len(state.get("backbone.deep_prompt_embeddings", ()))
    if "prompt_blocks" in assumed and assumed["prompt_blocks"] is None:  # all
        blocks = {name.split(".")[5] for name in weights if name.startswith(f"{CLIP}visual.transformer.resblocks.")}
        assumed["prompt_blocks"] = len(blocks) - 1
    if "level_projections" in weights:
        levels = assumed.setdefault("levels", find_head("cascade_clip").Options().levels)
        if len(levels) != (count := len(weights["level_projections"])):
            raise InputError(f"{source} uses {count} blocks besides the last: name them with levels, not {levels}")
    published = {"short_side": side, "crop": side, "stride": min(STRIDE, side)}
    return published, {
        "image_size": side,
        "prompt_blocks": further if "backbone.prompt_embeddings" in state else -further,
    }


def cat_seg_options(state: Mapping, weights: Mapping, assumed: dict, source: str) -> tuple[dict, dict]:
    """The same of CAT-Seg."""
    patch = weights[PATCHES].shape[-1]
    clip_size, blocks = (384, (3, 7)) if patch == 16 else (336, (7, 15))
    published = {"clip_size": clip_size, "guidance_blocks": blocks, "finetune": "attention"}
    if any(name.startswith("neck.") for name in state):
        published |= {"short_side": 512, "long_side": 2048, "stride": 384, "square": 0}
    told = {"guidance": "clip"}
    if any(name.startswith("guidance_backbone.") for name in weights):
        told["guidance"] = "resnet101"
        if "guidance_backbone.features.layer3.22.conv1.weight" not in weights:
            raise InputError(f"{source} has another guidance backbone than ResNet-101, the only one that is read")
    elif any(name.startswith("backbone.") for name in weights):
        raise InputError(
            f"{source} is of CAT-Seg's first version, with a guidance backbone as detectron2 names it, which is not "
            "read: mmsegmentation's file is"
        )
    if "prompts" in weights:
        told["finetune"] = "prompt"
    if not any(name.endswith(".classes.padding") for name in weights):
        told["pad_len"] = 0
    if mask := next((name for name in state if name.endswith(".attn_mask")), None):
        windows, places, _ = state[mask].shape
        told["window"] = math.isqrt(places)
        told["clip_size"] = math.isqrt(windows) * told["window"] * patch
    templates = len(assumed.get("templates", find_head("cat_seg").Options().templates))
    embed = weights.get("aggregator.embed.weight")
    if embed is not None and embed.shape[1:2] != (templates,):
        raise InputError(f"{source} was trained with {embed.shape[1]} templates, not {templates}: give templates")
    return published, told


def plain(name: str) -> str:
    """A class name for comparison: some write "pottedplant", some "potted plant"."""
    return "".join(filter(str.isalnum, str(name).lower()))
