"""The tiny models of the reference cases, built from their configurations and loaded strictly."""

import torch
from golden.cases import Case

from proxyclip.backbones.checkpoints import import_library, load_strict
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.vfm import dino, dinov2, mae, sam

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def clip(case: Case, name: str) -> DenseCLIP:
    """An image tower from the case's weights, in an open_clip model whose text tower is not used."""
    config, state = case.weights(name)
    open_clip = import_library("open_clip")
    vision = {key: config[key] for key in ("image_size", "patch_size", "width", "layers")}
    vision["head_width"] = config["width"] // config["heads"]
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    model = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"])
    model.visual.load_state_dict(state)
    return DenseCLIP(model.eval(), None, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD, name)


def text_clip(case: Case, name: str) -> DenseCLIP:
    """A text tower from the case's weights, in an open_clip model whose image tower is not used."""
    config, state = case.weights(name)
    open_clip = import_library("open_clip")
    if "token_embedding.rows" in state:  # the shipped case holds the rows of its own tokens only
        state["token_embedding.weight"] = all_rows(state["token_embedding.weight"], state.pop("token_embedding.rows"))
    vocabulary, width = state["token_embedding.weight"].shape
    context = len(state["positional_embedding"])
    text = {"context_length": context, "vocab_size": vocabulary, "width": width, "heads": config["heads"]}
    text["layers"] = config["layers"]
    vision = {"image_size": 8, "patch_size": 8, "width": 64, "layers": 1}
    model = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=config["activation"] == "QuickGELU")
    own = {key: value for key, value in model.state_dict().items() if key.startswith("visual.") or not value.dim()}
    model.load_state_dict(own | state)
    return DenseCLIP(model.eval(), open_clip.get_tokenizer("ViT-B-16"), *IMAGENET, name)


def all_rows(weight: torch.Tensor, rows: torch.Tensor, vocabulary: int = 49408) -> torch.Tensor:
    """The table with NaN in the rows that are not given: a wrong token cannot pass unnoticed."""
    return weight.new_full((vocabulary, weight.shape[1]), float("nan")).index_copy_(0, rows, weight)


def vfm(case: Case, name: str, window: int | None = None, features: str = "tokens"):
    """A VFM from the case's weights; `window` is the size that MAE stretches its input to."""
    config, state = case.weights(name)
    kind = config["kind"]
    if "SAM" in kind:
        return sam_encoder(config, state)
    shape = {key: config[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    registers = config.get("num_register_tokens", 0)
    more = {"reg_tokens": registers, "no_embed_class": registers > 0, "init_values": config.get("init_values")}
    vit = import_library("timm").models.VisionTransformer(**shape, **more, num_classes=0).eval()
    family = dinov2 if "DINOv2" in kind else mae if "MAE" in kind else dino
    load_strict(vit, family.from_official(dict(state)), name)
    if family is dino:
        return dino.DINO(vit, features)
    if family is mae:
        return mae.MAE(vit, window)
    return dinov2.DINOv2(vit)


def sam_encoder(config: dict, state: dict):
    """segment-anything's image encoder with the case's sizes."""
    from functools import partial

    from torch import nn

    encoder = import_library("segment_anything.modeling").ImageEncoderViT(
        **{key: config[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")},
        **{key: config[key] for key in ("out_chans", "qkv_bias", "use_rel_pos", "window_size", "global_attn_indexes")},
        norm_layer=partial(nn.LayerNorm, eps=config["layer_norm_eps"]),
    )
    load_strict(encoder, sam.from_official(dict(state)), "sam")
    return sam.SAM(encoder.eval())
