"""Devices, precisions, and full float32 precision."""

import re
import threading
from contextlib import contextmanager, nullcontext

import torch

from proxyclip.errors import InputError, nearest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICE_CHOICES = "choose auto, cpu, mps, cuda, or cuda:N for one of several GPUs"


def resolve_device(device: str | torch.device) -> torch.device:
    """The device with this name; "auto" selects the first available of CUDA, MPS and CPU.

    Raises InputError unless it names a device of this machine.
    """
    if not isinstance(device, (str, torch.device)) or not str(device):
        raise InputError(f"device {device!r} is not the name of a device; {DEVICE_CHOICES}")
    name = str(device)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind, colon, number = name.partition(":")
    if kind not in available:
        raise InputError(f"unknown device {name!r}; {nearest(name, [*available, 'auto'])}")
    if colon and not re.fullmatch("0|[1-9][0-9]*", number):
        raise InputError(f"device {name!r} has no number after the colon; {DEVICE_CHOICES}")
    if not available[kind]:
        raise InputError(f"device {name!r} is not available to this PyTorch ({torch.__version__}); use cpu or auto")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if colon and int(number) >= count:
        there = "only one" if count == 1 else f"{count}, numbered 0 to {count - 1}"
        raise InputError(f"device {name!r} does not exist: this machine has {there} of kind {kind}")
    return torch.device(name)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The data type of the image encoders.

    "auto" is float32 on a CPU and half precision on an accelerator: bfloat16 where the hardware supports it (CUDA with
    compute capability 8.0 or above; PyTorch emulates it slowly on older devices), float16 elsewhere.
    """
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; {nearest(precision, [*PRECISIONS, 'auto'])}")
    return PRECISIONS[precision]


@contextmanager
def exact_float32(device: torch.device):
    """Context in which float32 runs at full precision on `device`: without torch.autocast, TF32 or bfloat16.

    TF32 settings are global to the process; they are restored when the last thread leaves.
    """
    outer = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    with torch.autocast(device.type, enabled=False) if outer else nullcontext():
        if torch.compiler.is_compiling():  # settings of the process cannot be part of a compiled graph
            yield
            return
        exact_products.enter()
        try:
            yield
        finally:
            exact_products.leave()


class ExactProducts:
    """Counts the callers inside `exact_float32`: the first in saves the settings, the last out restores them."""

    def __init__(self):
        self.lock, self.inside, self.restore = threading.Lock(), 0, None

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.restore = switch_off_reduced_products()
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.restore()


exact_products = ExactProducts()


def switch_off_reduced_products():
    """Sets float32 products and convolutions to full precision; returns a function that restores the settings.

    PyTorch 2.9 added a second set of settings (`fp32_precision`). Both control the same state, but reading the older
    one raises RuntimeError once a program has used the newer one; then setting the newer one is enough.
    """
    backends = torch.backends
    places = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv] if NEWER else []
    newer = [place.fp32_precision for place in places]
    try:
        older = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:
        older = None

    def restore() -> None:
        if older:
            torch.set_float32_matmul_precision(older[0])
            backends.cudnn.allow_tf32 = older[1]
        for place, precision in zip(places, newer, strict=True):
            place.fp32_precision = precision

    if older:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
    for place in places:
        place.fp32_precision = "ieee"
    return restore


NEWER = hasattr(torch.backends, "fp32_precision")
