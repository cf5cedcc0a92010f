"""Any vision backbone on the Hugging Face hub supported by transformers: hf:facebook/dinov2-base, or hf:FOLDER."""

import inspect
import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import (
    check_finite,
    check_types,
    download,
    fixed_seed,
    import_library,
    read_checkpoint,
)
from proxyclip.backbones.vfm._vit import IMAGENET_MEAN, IMAGENET_STD, VFM, Options
from proxyclip.errors import InputError, NotFound

VARIANTS = {}  # every id is one
DEFAULT = ""
FEATURES = ("tokens",)


class HuggingFace(VFM):
    """A model of transformers whose last hidden state is a map (B, C, h, w), or tokens (B, R+h*w, C), patches last."""

    def __init__(self, model: nn.Module, patch_size: int, **statistics):
        super().__init__(patch_size, **statistics)
        self.model = model
        resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.arguments = {"interpolate_pos_encoding": True} if resizes else {}

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
        p = self.patch_size
        h, w = images.shape[-2] // p, images.shape[-1] // p
        features = self.model(self.prepare(images[..., : h * p, : w * p]), **self.arguments).last_hidden_state
        if features.ndim == 4:
            return features  # (B, C, h, w)
        if features.shape[1] < h * w:
            raise InputError(f"{self.name} returns {features.shape[1]} tokens for {h}x{w} patches: not a feature map")
        return features[:, features.shape[1] - h * w :].mT.unflatten(2, (h, w))  # (B, C, h, w)


def load(variant: str, source: str | None, options: Options) -> HuggingFace:
    """See proxyclip.backbones.vfm.load; `source` is an id of the hub or a folder. Code from the hub is never run."""
    if source is None:
        raise InputError("hf needs an id or a folder, for example hf:facebook/dinov2-base")
    folder = Path(source) if os.path.isdir(source) else fetch(source)
    transformers = import_library("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = getattr(config, "vision_config", config)  # of a model of images and text
        patch_size = check(config, source, options.layer)
        with fixed_seed():
            model, report = transformers.AutoModel.from_pretrained(
                folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, ImportError, UnpicklingError) as error:
        raise InputError(f"transformers cannot load hf:{source}: {str(error).strip().splitlines()[0]}") from error
    for file in weight_files(folder):
        check_types(stored_as(model, read_checkpoint(file)), model.state_dict(), str(file))
    check_finite(model.state_dict(), f"hf:{source}")
    if missing := sorted(name for name in report["missing_keys"] if "pooler" not in name):
        raise InputError(f"hf:{source} lacks {len(missing)} weights of the image encoder ({', '.join(missing[:4])})")
    mean, std = statistics(folder)
    return HuggingFace(model, patch_size, mean=mean, std=std)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads: safetensors where there are any."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def stored_as(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under the names of the model's own; transformers puts prefixes such as 'vit.' before them."""
    names = model.state_dict().keys()
    return {own: value for own in names for name, value in state.items() if f".{name}".endswith(f".{own}")}


def check(config, source: str, layer: int | None) -> int:
    """The patch size of an image encoder that can be used; asks it for `layer` blocks only."""
    stages = len(getattr(config, "depths", [1]))
    if not hasattr(config, "patch_size") and stages == 1:
        raise InputError(f"hf:{source} ({config.model_type}) is not a vision backbone with a patch feature map")
    if hasattr(config, "mask_ratio"):
        raise InputError(f"hf:{source} ({config.model_type}) masks patches at random; use mae-vitb16, which does not")
    if layer is not None:
        layers = config.num_hidden_layers if stages == 1 else 0
        if not 1 <= layer <= layers:
            raise InputError(f"hf:{source} cannot stop after layer {layer}: {layers} of its layers can be the last")
        config.num_hidden_layers = layer
    size = getattr(config, "patch_size", 4)  # the step of all convolutional stems without a patch size
    size = size if isinstance(size, int) else size[0]
    return size * 2 ** (stages - 1)  # each stage but the first halves the grid


def statistics(folder: Path) -> tuple[tuple, tuple]:
    """Mean and standard deviation from preprocessor_config.json, or ImageNet's where there is none."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        warnings.warn(f"{folder} has no preprocessor_config.json: ImageNet's mean and std are used", stacklevel=2)
        return IMAGENET_MEAN, IMAGENET_STD
    settings = json.loads(file.read_text())
    if not settings.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)


def fetch(name: str) -> Path:
    """The folder in the hub's cache that holds the model's files."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise NotFound(f"hf:{name} is neither a folder nor an id of the hub (owner/name)") from None
    try:
        config = download(name, ("config.json",), f"hf:{name}", "--checkpoint-vfm")
        download(name, ("model.safetensors", "pytorch_model.bin"), f"hf:{name}", "--checkpoint-vfm")
    except NotFound as error:
        raise NotFound(f"{error}, or put the repository's files into one folder and name it: hf:FOLDER") from None
    with suppress(NotFound):  # not every repository has one; `statistics` says which values are used then
        download(name, ("preprocessor_config.json",), f"hf:{name}", "--checkpoint-vfm")
    return config.parent
