"""Checkpoints: reading them safely, loading them strictly, and finding them in the cache or on the hub."""

import hashlib
import importlib
import os
import pickle
import re
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from proxyclip.errors import InputError, NotFound

# The keys under which files hold their weights; of several in one file, the first.
WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "net", "ema", "state_dict_ema", "model_ema")
NO_CHECKPOINTS = {  # how files begin that are often saved under a checkpoint's name -> what they are, and what to do
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"<?xml": "a web page: download the file itself",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull` where it comes from",
}
LAYOUTS = {  # names in layouts that are not read -> what they are, and what to do
    r"^(vision_model|text_model)\.": "CLIP as transformers stores it: use open_clip's file of it, or OpenAI's",
    r"^([a-z_0-9]+\.)?(embeddings\.|encoder\.layers?\.\d|layer\.\d)|^vision_encoder\.": (
        "a model as transformers stores it: put it into a folder with its config.json, and name that as hf:FOLDER"
    ),
    r"^(storage_tokens|rope_embed\.periods)$": (
        "DINOv3 as Meta stores it: use timm's file of it, or transformers' as hf:FOLDER"
    ),
}
BESIDE_WEIGHTS = (  # types of values that training frameworks store with the weights
    *(f"numpy{part}.multiarray.{name}" for part in (".core", "._core") for name in ("scalar", "_reconstruct")),
    *("numpy.ndarray", "numpy.dtype", "argparse.Namespace", "mmengine.logging.history_buffer.HistoryBuffer"),
    *("builtins.getattr", "__builtin__.getattr"),  # how a HistoryBuffer names its functions
    *(
        f"pathlib{part}.{kind}Path"
        for part in ("", "._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    ),
)


class Unread:
    """Stands for a value of BESIDE_WEIGHTS: none of them is needed, and none is made."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def read_checkpoint(path: str | Path, torchscript: bool = False) -> dict[str, Tensor]:
    """Name -> tensor of a `.safetensors` or PyTorch file, on the CPU.

    Only tensors are read. Of what else a pickle holds, values of BESIDE_WEIGHTS are passed over; with any other, it is
    refused. `torchscript` also reads the TorchScript archives in which OpenAI published CLIP; PyTorch builds those
    without Python's unpickler.
    """
    return unwrap(read_whole(path, torchscript), path)


def read_whole(path: str | Path, torchscript: bool = False, place: str = "cpu"):
    """All that a checkpoint holds: tensors, plain values, `Unread`. place: "meta" for shapes alone, quickly."""
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"checkpoint {path} is a folder: name one file in it")
    if not os.path.isfile(path):
        raise NotFound(f"checkpoint {path} does not exist")
    check_beginning(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if torchscript and is_torchscript(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        with torch.serialization.safe_globals([(Unread, name) for name in BESIDE_WEIGHTS]):
            return torch.load(path, map_location=place, weights_only=True)
    except pickle.UnpicklingError as error:
        _, _, found = str(error).partition("Unsupported")
        kind = f" (unsupported{found.splitlines()[0]})" if found else ""
        raise InputError(
            f"checkpoint {path} is rejected: it contains Python objects besides tensors{kind}; "
            "loading them could run arbitrary code. Save its state_dict alone, preferably as .safetensors"
        ) from None
    except Exception as error:  # every reader has errors of its own for a damaged file
        problem = f"cannot be read ({type(error).__name__}): damaged, or not a checkpoint"
        raise InputError(f"checkpoint {path} {problem}") from error


def check_beginning(path: Path) -> None:
    """InputError for a file that shows at once that it is no checkpoint."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(64).lstrip().lower()
    except OSError as error:
        raise InputError(f"checkpoint {path} cannot be read ({error.strerror or error})") from None
    for start, what in NO_CHECKPOINTS.items():
        if beginning.startswith(start):
            raise InputError(f"{path} is not a checkpoint: it is {what}")


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with TorchScript code in it."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def unwrap(state, path: Path) -> dict[str, Tensor]:
    """The weights out of {'model': …} and the like, without the marks of parallel training and of torch.compile."""
    while isinstance(state, dict) and (inner := [state[key] for key in WRAPPERS if isinstance(state.get(key), dict)]):
        state = inner[0]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"checkpoint {path} contains no named tensors")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {re.sub(r"^(module\.)+", "", name.replace("_orig_mod.", "")): value for name, value in tensors.items()}


def load_strict(module: nn.Module, state: dict[str, Tensor], source: str, keep: tuple[str, ...] = ()) -> None:
    """Copies `state` into `module`, in the types of the module's own tensors; checks and errors as in `fitting`."""
    module.load_state_dict(fitting(module, state, source, keep), strict=not keep)


def fitting(module: nn.Module, state: dict[str, Tensor], source: str, keep: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """`state` in the types of the module's own tensors.

    keep: tensors whose names start with one of these are not in `state` and stay as they are. Raises InputError, naming
    `source` and tensors, unless every other name and shape agrees, floating-point weights come from floating-point
    tensors, integer buffers from integer ones, and all values are finite. Tensors on "meta" have no values.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(keep)}
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    complaints = [
        f"{len(names)} {problem} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if complaints:
        layout = next(
            (what for mark, what in LAYOUTS.items() if any(re.match(mark, name) for name in unexpected)), None
        )
        if layout:
            raise InputError(f"{source} is {layout}")
        raise InputError(f"{source} does not match the model's architecture: {'; '.join(complaints)}")
    check_types(state, own, source)
    converted = {name: value.to(own[name].dtype) for name, value in state.items()}
    check_finite({name: value for name, value in converted.items() if not value.is_meta}, source)
    return converted


def check_types(state: dict[str, Tensor], own: dict[str, Tensor], source: str) -> None:
    """InputError where a tensor of `state` is of another kind than the module's `own` of that name."""
    kinds = {name: (kind_of(value), kind_of(own[name])) for name, value in state.items() if name in own}
    wrong = [f"{name} is {str(state[name].dtype).removeprefix('torch.')}" for name, (a, b) in kinds.items() if a != b]
    if wrong:
        raise InputError(f"{source} cannot be used: {some(wrong)}; weights must be floating-point numbers")


def kind_of(tensor: Tensor) -> str:
    """The kind of numbers that a tensor holds."""
    if tensor.is_floating_point():
        return "floating point"
    return "complex" if tensor.is_complex() else "bool" if tensor.dtype == torch.bool else "integer"


def check_finite(state: dict[str, Tensor], source: str) -> None:
    """InputError where a tensor holds NaN or infinity, as the weights of a diverged training run do."""
    floating = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    # The extremes of a tensor are finite if and only if all its values are; nothing of its size is allocated.
    wrong = [name for name, value in floating.items() if not torch.stack(value.aminmax()).isfinite().all()]
    if wrong:
        raise InputError(f"{source} cannot be used: {some(wrong)} contain values that are not finite in float32")


def some(names: list[str], most: int = 4) -> str:
    """The first few names of a list, for an error message."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def download(repository: str, filenames: tuple[str, ...], model: str, flag: str | None) -> Path:
    """The first of `filenames` that the Hugging Face repository has, from the local cache or the network.

    `model` is its name and `flag` the option that takes a file instead, if there is one, for the error message.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename)
        if isinstance(cached, str):
            return Path(cached)
    reason = "no such file there"
    for filename in filenames:
        try:
            # One question first: without a network hf_hub_download alone would try again for half a minute.
            get_hf_file_metadata(hf_hub_url(repository, filename), timeout=5)
            return Path(hf_hub_download(repository, filename))
        except EntryNotFoundError:
            continue
        except OfflineModeIsEnabled:
            reason = "HF_HUB_OFFLINE is set"
            break
        except Exception as error:  # no network, proxies, gates: each client version has its own classes
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            break
    instead = f"pass it with {flag} FILE" if flag else "copy that cache here"
    raise NotFound(
        f"the weights of {model} are neither in the cache {constants.HF_HUB_CACHE} nor reachable ({reason}). "
        f"Download https://huggingface.co/{repository}/resolve/main/{filenames[0]} where there is a network, "
        f"and {instead}"
    )


def fingerprint(weights: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that depend on every name and value and on nothing else."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def signs_of_change(weights: Iterable[Tensor]) -> tuple:
    """Equal for the same tensors at two times if nothing was written to them in between; cheap where they are large.

    PyTorch counts the writes to a tensor, except those through `.data`, which some training code uses. Sixteen values
    of each tensor reveal those as well, for a training step changes all values.
    """
    weights = [weight.detach() for weight in weights]
    versions = tuple(0 if weight.is_inference() else weight._version for weight in weights)
    sample = [weight.flatten()[:: max(1, weight.numel() // 16)].float() for weight in weights]
    return versions, torch.cat(sample).cpu().numpy().tobytes()


def cache_folder() -> Path:
    """Where computed files are cached: $PROXYCLIP_CACHE, or proxyclip/ in the user's cache folder."""
    if folder := os.environ.get("PROXYCLIP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxyclip"


@contextmanager
def fixed_seed():
    """Context in which random weights are created on the CPU in float32 from a fixed seed.

    The caller's generators are not changed; torch.manual_seed would also reseed those of every accelerator.
    """
    generator, dtype = torch.default_generator, torch.get_default_dtype()
    state = generator.get_state()
    try:
        generator.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
        generator.set_state(state)


def import_torchvision():
    """torchvision, also where its compiled operators cannot be loaded."""
    import torch

    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def import_library(name: str):
    """`open_clip`, `timm`, `segment_anything` or `transformers`, imported on first use."""
    import_torchvision()
    return importlib.import_module(name)
