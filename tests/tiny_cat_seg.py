"""A CAT-Seg small enough for tests, and its weights as the published codebase stores them."""

import re

import tiny_clip
import torch
from step_by_step_cat_seg import AGGREGATOR, CLIP, window_mask

from heads import cat_seg
from proxyclip.backbones import build_clip
from proxyclip.backbones.checkpoints import fixed_seed

LAYERS = {"vision": {"layers": 3}, "quick_gelu": True}  # of the CLIP
CLASSES = ("sky", "grass, lawn", "car", "boat", "tree")
OPTIONS = {
    "image_size": 32,
    "short_side": 40,
    "square": 40,
    "crop": 32,
    "stride": 8,
    "clip_size": 32,
    "guidance_blocks": (0, 1),
    "hidden": 16,
    "attention_heads": 4,
    "window": 2,
    "pooling": 2,
    "pad_len": 8,
    "image_guidance": 12,
    "text_guidance": 8,
    "guidance_features": (10, 6),
    "decoder": (32, 16),
    "decoder_guidance": (6, 4),
}
UNTOLD = ("image_size", "short_side", "square", "crop", "stride", "guidance_blocks", "pad_len")  # by its weights


def head(clip=None, classes=CLASSES, seen=CLASSES, **options):
    """With random weights that all matter, the same every time; the CLIP has 3 blocks, and 4 × 4 patches."""
    with fixed_seed():
        clip = clip or tiny_clip.clip(**LAYERS)
        found = cat_seg.Head(clip, cat_seg.Options(**OPTIONS | options), classes, seen)
        with torch.no_grad():
            for name, tensor in found.trained().items():
                if not name.startswith("clip.") and tensor.is_floating_point():
                    tensor += 0.1 * torch.randn(tensor.shape)
    return found.eval()


def tuned_head(clip: str, **options):
    """The same for a CLIP in a folder, with other values in all that training changes."""
    found = head(build_clip.load(clip), **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in sorted(found.tuned):
            change = 0.1 * torch.randn(found.state_dict()[name].shape, generator=generator)
            if found.options.finetune == "attention":
                change.chunk(3)[1].zero_()
            found.state_dict()[name].add_(change)
    found.clip.requires_grad_(False)  # so that names are encoded one by one, as by a loaded head
    return found


def arguments(head) -> dict:
    """Of the slow and obvious implementation, for this head as it is: in training or in evaluation."""
    clip, own = head.clip, head.options
    return {
        "clip": {"heads": clip.visual.transformer.resblocks[0].attn.num_heads, "blocks": own.guidance_blocks},
        "aggregator": {
            "heads": own.attention_heads,
            "window": own.window,
            "pooling": own.pooling if head.training else own.evaluation_pooling,
            "attention": own.attention,
            "pad_len": own.pad_len,
        },
    }


def published_state(head) -> dict[str, torch.Tensor]:
    """The state dict that the published code has for a head."""
    state = {}
    for name, value in head.clip.model.state_dict().items():
        if name.endswith(".attn.in_proj_weight"):
            parts = zip("qkv", value.chunk(3), strict=True)
            state |= {f"{CLIP}.{name.replace('in_proj', f'{part}_proj')}": rows for part, rows in parts}
        else:
            state[f"{CLIP}.{name}"] = value
    if head.prompts is not None:
        state[f"{CLIP}.visual.transformer.prompt_tokens"] = head.prompts
    for number, lift in enumerate(head.guidance_lifts or (), start=1):
        put(state, f"upsample{number}", lift)
    own = head.aggregator
    put(state, f"{AGGREGATOR}.conv1", own.embed)
    put(state, f"{AGGREGATOR}.guidance_projection.0", own.image_guidance)
    put(state, f"{AGGREGATOR}.text_guidance_projection.0", own.text_guidance)
    for number, projection in enumerate(own.decoder_guidance):
        put(state, f"{AGGREGATOR}.decoder_guidance_projection.{number}.0", projection)
    side = head.options.clip_size // head.clip.patch_size
    for number, layer in enumerate(own.layers):
        put_layer(state, f"{AGGREGATOR}.layers.{number}", layer, side, head.options.window)
    for number, block in enumerate(own.upsampling, start=1):
        put(state, f"{AGGREGATOR}.decoder{number}.up", block.lift)
        for place, part in {0: "first", 1: "first_norm", 3: "second", 4: "second_norm"}.items():
            put(state, f"{AGGREGATOR}.decoder{number}.conv.double_conv.{place}", getattr(block, part))
    put(state, f"{AGGREGATOR}.head", own.score)
    return {name: value.detach().clone() for name, value in state.items()}


# Names inside a module: of the authors' code, and of the building blocks of mmcv and mmsegmentation.
MMSEG = (
    (CLIP, "backbone.clip_model"),
    (f"{AGGREGATOR}.decoder_guidance_projection", "decode_head.decoder_guidance_projection"),
    (f"{AGGREGATOR}.decoder", "decode_head.decoder"),
    (f"{AGGREGATOR}.head", "decode_head.conv_seg"),
    (AGGREGATOR, "neck"),
    ("neck.conv1", "neck.corr_embed.conv"),
    ("swin_block", "spatial_agg"),
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1", ".ffn.layers.0.0"),
    (".mlp.fc2", ".ffn.layers.1"),
    (".MLP.0", ".MLP.layers.0.0"),
    (".MLP.2", ".MLP.layers.1"),
    ("conv.double_conv.0", "conv1.conv"),
    ("conv.double_conv.1", "conv1.gn"),
    ("conv.double_conv.3", "conv2.conv"),
    ("conv.double_conv.4", "conv2.gn"),
)


def mmseg_state(head) -> dict[str, torch.Tensor]:
    """The state dict of a head in mmsegmentation's project."""
    state = {}
    for name, value in published_state(head).items():
        if name.endswith("attn_mask"):
            continue
        for old, new in MMSEG:
            if "clip_model" not in name or old == CLIP:
                name = name.replace(old, new)
        state[re.sub(r"(layers\.\d+)\.attention\.", r"\1.class_agg.", name)] = value
    if head.guidance_backbone is not None:
        put(state, "backbone.feature_extractor", head.guidance_backbone.features)
    for name in [name for name in state if ".w_msa.q." in name]:
        parts = state.pop(name), state.pop(name.replace(".q.", ".k."))
        state[name.replace(".q.", ".qk.")] = torch.cat(parts)
    return state


def save_official(path, head, **more) -> str:
    """As detectron2 writes it. more: other weights, None removes one."""
    state = {name: value for name, value in (published_state(head) | more).items() if value is not None}
    stored = {"model": state, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 80000}, "iteration": 79999}
    torch.save(stored, path)
    return str(path)


def put_layer(state: dict, at: str, layer, side: int, window: int) -> None:
    put(state, f"{at}.swin_block.guidance_norm", layer.guidance_norm)
    for number, block in enumerate(layer.spatial, start=1):
        parts = {"attn.q": block.query, "attn.k": block.key, "attn.v": block.value, "attn.proj": block.projection}
        parts |= {"norm1": block.norm_attention, "norm2": block.norm_network}
        parts |= {"mlp.fc1": block.widen, "mlp.fc2": block.narrow}
        for name, module in parts.items():
            put(state, f"{at}.swin_block.block_{number}.{name}", module)
    if side > window:
        state[f"{at}.swin_block.block_2.attn_mask"] = window_mask((side, side), window, window // 2)
    classes = layer.classes
    parts = {"attention.q": classes.query, "attention.k": classes.key, "attention.v": classes.value}
    parts |= {"norm1": classes.norm_attention, "norm2": classes.norm_network}
    parts |= {"MLP.0": classes.widen, "MLP.2": classes.narrow}
    for name, module in parts.items():
        put(state, f"{at}.attention.{name}", module)
    if classes.pad:
        state[f"{at}.attention.padding_tokens"] = classes.padding
        state[f"{at}.attention.padding_guidance"] = classes.padding_guidance


def put(state: dict, name: str, module) -> None:
    state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
