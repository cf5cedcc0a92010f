"""Checkpoints: reading them safely, loading them strictly, finding them in the cache or on the hub."""

import hashlib
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from proxyclip.errors import InputError, NotFound

WRAPPERS = ("state_dict", "model", "teacher")  # the keys under which published checkpoints hold their weights


def read_checkpoint(path: str | Path, torchscript: bool = False) -> dict[str, Tensor]:
    """Name -> tensor of a `.safetensors` or PyTorch file, on the CPU.

    Only tensors are read: a pickle with anything else in it is refused. `torchscript` also reads the TorchScript
    archives in which OpenAI published CLIP; PyTorch builds those without Python's unpickler.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"checkpoint {path} is a folder: name one file in it")
    if not path.is_file():
        raise NotFound(f"checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if torchscript and is_torchscript(path):
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, _, found = str(error).partition("Unsupported")
        what = f" (unsupported{found.splitlines()[0]})" if found else ""
        raise InputError(
            f"checkpoint {path} is refused: it holds Python objects beside tensors{what}; "
            "loading them could run foreign code. Save its state_dict alone, best as .safetensors"
        ) from None
    except Exception as error:  # every reader has errors of its own for a damaged file
        problem = f"cannot be read ({type(error).__name__}): damaged, or no checkpoint"
        raise InputError(f"checkpoint {path} {problem}") from error
    return unwrap(state, path)


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with TorchScript code in it."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def unwrap(state, path: Path) -> dict[str, Tensor]:
    """The weights out of {'model': …} and the like, without the 'module.' of parallel training."""
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"checkpoint {path} holds no named tensors")
    return {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


def load_strict(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copies `state` into `module`; every name and shape must agree, or the error names those that do not."""
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    complaints = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if complaints:
        raise InputError(f"{source} is a checkpoint for another architecture: {'; '.join(complaints)}")
    module.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})


def download(repository: str, filenames: tuple[str, ...], what: str, flag: str) -> Path:
    """The first of `filenames` that the Hugging Face repository has, from the local cache or the network.

    `what` names the model and `flag` the option that takes a file instead, for the error message.
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
    raise NotFound(
        f"the weights of {what} are neither in the cache {constants.HF_HUB_CACHE} nor reachable ({reason}). "
        f"Where there is a network, fetch https://huggingface.co/{repository}/resolve/main/{filenames[0]} "
        f"and pass it with {flag} FILE"
    )


def fingerprint(weights: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that depend on every name and value and on nothing else."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where computed things are kept: $PROXYCLIP_CACHE, or proxyclip/ in the user's cache folder."""
    if folder := os.environ.get("PROXYCLIP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxyclip"
