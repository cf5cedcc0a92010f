"""The tiny models of the reference cases, loaded strictly. Their sizes are those of their weights."""

from functools import partial
from math import isqrt
from types import SimpleNamespace

from golden.cases import CLIP_WORDS, Case
from statistics_of_images import denormalise
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import import_library, load_strict
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.vfm import dino, dinov2, mae, sam
from proxyclip.methods import find_method
from proxyclip.methods._training_free import TrainingFree

State = dict[str, Tensor]
NO_IMAGES = {"image_size": 1, "patch_size": 1, "width": 1, "layers": 1, "head_width": 1}
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "layers": 1, "heads": 1}


def clip(
    visual: State | None = None,
    text: State | None = None,
    *,
    heads: int = 1,
    text_heads: int = 1,
    joint: int | None = None,
    quick_gelu: bool = True,
    epsilon: float = 1e-5,
    image_shape: dict | None = None,
    text_shape: dict | None = None,
) -> DenseCLIP:
    """A CLIP of an image tower and a text tower with these weights, under open_clip's names.

    A tower without weights is the smallest there can be, but for settings in its shape, and has random ones. joint:
    width of the joint embeddings, if no weights tell it. epsilon: of the norms.
    """
    open_clip = import_library("open_clip")
    shape_of_images = image_sizes(visual, heads) if visual else NO_IMAGES | (image_shape or {})
    shape_of_text = text_sizes(text, text_heads) if text else NO_TEXT | (text_shape or {})
    joint = joint or (visual["proj"] if visual else text["text_projection"]).shape[1]
    shapes = (shape | {"norm_kwargs": {"eps": epsilon}} for shape in (shape_of_images, shape_of_text))
    model = open_clip.CLIP(joint, *shapes, quick_gelu=quick_gelu)
    if visual:
        model.visual.load_state_dict(visual)
    if text:
        missing, unexpected = model.load_state_dict(text, strict=False)
        assert not unexpected and all(name.startswith(("visual.", "logit_scale")) for name in missing)
    tokenizer = None
    if shape_of_text["vocab_size"] == CLIP_WORDS:
        tokenizer = open_clip.get_tokenizer("ViT-B-16", context_length=shape_of_text["context_length"])
    return DenseCLIP(model.eval(), tokenizer, *clip_statistics(), "tiny")


def image_sizes(visual: State, heads: int) -> dict:
    """open_clip's settings of an image tower with these weights."""
    width, _, patch, _ = visual["conv1.weight"].shape
    side = isqrt(len(visual["positional_embedding"]) - 1)
    return {"patch_size": patch, "image_size": side * patch, "head_width": width // heads} | block_sizes(visual)


def text_sizes(text: State, heads: int) -> dict:
    """open_clip's settings of a text tower with these weights."""
    context, words = len(text["positional_embedding"]), len(text["token_embedding.weight"])
    return {"context_length": context, "vocab_size": words, "heads": heads} | block_sizes(text)


def block_sizes(state: State) -> dict:
    hidden, width = state["transformer.resblocks.0.mlp.c_fc.weight"].shape
    return {"width": width, "layers": sum(n.endswith(".ln_1.weight") for n in state), "mlp_ratio": hidden / width}


def clip_statistics() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of CLIP's training data, by which the images of most cases are normalised."""
    open_clip = import_library("open_clip")
    return open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def attention(state: State, heads: int) -> SimpleNamespace:
    """A block that is nothing but an attention: its input is normalised already."""
    layer = nn.MultiheadAttention(state["in_proj_weight"].shape[1], heads, batch_first=True)
    layer.load_state_dict(state)
    return SimpleNamespace(attn=layer, ln_1=nn.Identity(), ls_1=nn.Identity())


def vfm(config: dict, state: State, crop: int | None = None, features: str = "tokens"):
    """A vision foundation model. crop: the size that MAE stretches its input to. features: what DINO returns."""
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
    shape = {name: config[name] for name in names} | {"qkv_bias": config.get("qkv_bias", True)}
    shape["norm_layer"] = partial(nn.LayerNorm, eps=config["layer_norm_eps"])
    if "SAM" in config["kind"]:
        shape |= {name: config[name] for name in ("out_chans", "use_rel_pos", "window_size", "global_attn_indexes")}
        encoder = import_library("segment_anything.modeling").ImageEncoderViT(**shape).eval()
        encoder.neck[1].eps = encoder.neck[3].eps = config["neck_layer_norm_eps"]
        load_strict(encoder, sam.from_official(dict(state)), "sam")
        return sam.SAM(encoder)
    registers = config.get("num_register_tokens", 0)
    shape |= {"reg_tokens": registers, "no_embed_class": registers > 0, "init_values": config.get("init_values")}
    vit = import_library("timm").models.VisionTransformer(**shape, num_classes=0).eval()
    family = dinov2 if "DINOv2" in config["kind"] else mae if "MAE" in config["kind"] else dino
    load_strict(vit, family.from_official(dict(state)), config["kind"])
    if family is dino:
        return dino.DINO(vit, features)
    return mae.MAE(vit, crop) if family is mae else dinov2.DINOv2(vit)


def images(case: Case) -> Tensor:
    """The images of a case, (B, 3, H, W) in [0, 1]; they are stored as CLIP normalises them."""
    return denormalise(case.tensors["image"], *clip_statistics())


def of_case(case: Case) -> DenseCLIP:
    """The image tower of a training-free method's case."""
    given = case.hyperparameters
    quick = given.get("activation", "QuickGELU") == "QuickGELU"
    return clip(case.weights("visual."), heads=given["heads"], quick_gelu=quick)


def method(name: str, tower: DenseCLIP, vfm=None, **options) -> TrainingFree:
    """A method with a tower that has no text encoder, and for images as they are."""
    module = find_method(name)
    return module.Method(tower, vfm, module.Options(short_side=0, templates=("{}",), **options)).eval()
