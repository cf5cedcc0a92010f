"""Tiny vision models with weights that all matter, for the VFM tests."""

import json
from functools import partial

import torch
from safetensors.torch import save_file
from torch import nn

from proxyclip.backbones.checkpoints import fixed_seed, import_library
from proxyclip.backbones.vfm import dino, dinov2, dinov3, mae, sam

SIZES = {"embed_dim": 48, "depth": 3, "num_heads": 3}
GRID = {"dino": (64, 8), "dinov2": (70, 14), "dinov3": (64, 16), "mae": (64, 16)}  # native image side, patch size
EXTRA = {"dino": {}, "dinov2": {"init_values": 1.0}, "mae": {}}
FAMILIES = ("dino", "dinov2", "dinov2-reg", "dinov3", "mae", "sam")
REGISTERS = {"reg_tokens": 4, "no_embed_class": True}


def shake(module: nn.Module) -> nn.Module:
    """Every parameter away from its initial value, the same way every time; ready for inference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def arguments(family: str, registers: bool = False) -> dict:
    """timm's arguments of the tiny model."""
    side, patch = GRID[family]
    return {**SIZES, "img_size": side, "patch_size": patch, **EXTRA.get(family, {}), **(REGISTERS if registers else {})}


def timm_model(family: str, registers: bool = False) -> nn.Module:
    """A tiny timm model of the family's kind."""
    timm = import_library("timm")
    with fixed_seed():
        if family == "dinov3":
            return shake(timm.create_model("vit_small_patch16_dinov3", num_classes=0, **arguments("dinov3")))
        return shake(timm.models.VisionTransformer(num_classes=0, **arguments(family, registers)))


def official_state(family: str, vit: nn.Module) -> dict[str, torch.Tensor]:
    """The weights under the names that the model's authors use, with what their files carry beside the encoder."""
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    if family == "dinov2":
        state["mask_token"] = torch.zeros(1, 48)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        position = torch.linspace(-1, 1, 48)[None, None]  # not constant: a layer norm would take that off again
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    if family == "mae":
        state |= {"mask_token": torch.zeros(1, 1, 48), "decoder_embed.weight": torch.zeros(16, 48)}
    return state


def save_folder(folder, family: str, state: dict, registers: bool = False, **settings) -> str:
    """timm's folder layout."""
    architecture = "vit_small_patch16_dinov3" if family == "dinov3" else "vit_tiny_patch16_224"
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": arguments(family, registers),
        "pretrained_cfg": settings,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    return str(folder)


def sam_encoder() -> nn.Module:
    """A tiny image encoder of segment_anything with windowed and global attention."""
    import_library("segment_anything")
    from segment_anything.modeling import ImageEncoderViT

    layout = {"img_size": 96, "patch_size": 16, "out_chans": 32, "window_size": 4, "global_attn_indexes": (2,)}
    with fixed_seed():
        norm = partial(nn.LayerNorm, eps=1e-6)
        return shake(ImageEncoderViT(**SIZES, **layout, norm_layer=norm, use_rel_pos=True))


def tiny(name: str):
    """A tiny model of the family with weights that all matter."""
    if name == "sam":
        return sam.SAM(sam_encoder())
    family, _, registers = name.partition("-")
    make = {"dino": dino.DINO, "dinov2": dinov2.DINOv2, "dinov3": dinov3.DINOv3, "mae": mae.MAE}[family]
    return make(timm_model(family, bool(registers)), **({"window": 96} if family == "mae" else {}))


def images(batch: int, height: int, width: int):
    """RGB in [0, 1], the same every time."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))
