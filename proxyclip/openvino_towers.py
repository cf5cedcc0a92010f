"""The image towers compiled by OpenVINO for a CPU: `proxyclip.load(..., backend="openvino")`.

Shapes: B windows of c × c pixels, W of a compiled batch, h × w the patches of a window.
"""

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.errors import InputError, nearest
from proxyclip.methods import find_method, method_names

BACKENDS = ("torch", "openvino")
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of the processor -> OpenVINO's names


def check_backend(backend: str, method: str, crop: int, device: torch.device, dtype: torch.dtype) -> None:
    """InputError, before any weights are loaded, for a backend that is unknown or cannot run such a model."""
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; {nearest(str(backend), BACKENDS)}")
    if backend == "torch":
        return
    if not find_method(method).Method.only_values:
        fitting = ", ".join(name for name in method_names() if find_method(name).Method.only_values)
        raise InputError(f"backend openvino cannot run {method}: choose one of {fitting}, or backend torch")
    if device.type != "cpu" or dtype not in PRECISIONS:
        raise InputError("backend openvino runs on device cpu, with precision fp32 or bf16: choose these")
    if not crop:
        raise InputError("backend openvino needs windows of one size: choose a crop instead of 0, the whole image")
    openvino = require_openvino()
    if dtype == torch.bfloat16 and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError("OpenVINO has no bf16 on this processor: choose precision fp32, or backend torch")


def require_openvino():
    """The module; InputError without it."""
    try:
        import openvino
        import openvino.frontend.pytorch.fx_decoder
    except ImportError:
        raise InputError(
            "backend openvino needs OpenVINO: pip install 'proxyclip[openvino]', or in a checkout: "
            "pip install .[openvino]"
        ) from None
    return openvino


class OpenVINOTowers:
    """CLIP's values and the VFM's features of windows of one size; other windows run through PyTorch.

    The towers are compiled with their weights as they are now, in float32, for as many threads as PyTorch has now.
    """

    def __init__(self, clip: nn.Module, vfm: nn.Module | None, side: int, windows: int, dtype: torch.dtype):
        """side: of the windows, as they enter the towers. windows: of a batch. dtype: that products are computed in,
        and of what is returned. Raises InputError if OpenVINO cannot run a tower."""
        started, shape = time.monotonic(), (windows, 3, side, side)
        self.values = CompiledTower(clip, clip.values, shape, dtype)
        self.features = vfm and CompiledTower(vfm, vfm.forward, shape, dtype)
        took = f"{time.monotonic() - started:.0f} s"
        size = f"batches of {windows} windows of {side}x{side} pixels"
        print(f"compiled the image towers with OpenVINO for {size} in {took}", file=sys.stderr)

    def settings(self) -> str:
        """For records: scores depend on the version."""
        return f"openvino {require_openvino().get_version().partition('-')[0]}"


class CompiledTower:
    """A function of an image tower, (B, 3, c, c) -> (B, D, h, w), with the same result up to rounding."""

    def __init__(self, tower: nn.Module, function: Callable, shape: tuple[int, ...], dtype: torch.dtype):
        """shape: (W, 3, c, c). Other arguments as in `OpenVINOTowers`."""
        self.function, self.shape, self.dtype = function, shape, dtype
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # processes side by side would be bound to the same cores
        }
        self.network = require_openvino().Core().compile_model(converted(tower, function, shape), "CPU", options)

    def __call__(self, images: Tensor) -> Tensor:
        """Each window's result does not depend on B: a larger batch is computed in parts, the last one filled up."""
        if images.shape[1:] != self.shape[1:]:
            return self.function(images)
        return torch.cat([self.run(part) for part in images.split(self.shape[0])])  # (B, D, h, w)

    def run(self, images: Tensor) -> Tensor:
        """At most W windows."""
        filled = F.pad(images, (0,) * 7 + (self.shape[0] - len(images),))  # (W, 3, c, c)
        request = self.network.create_infer_request()  # one for each call: threads may share a model
        found = request.infer([filled.numpy()], share_inputs=True)[0]  # (W, D, h, w)
        return torch.from_numpy(found)[: len(images)].to(self.dtype)


class Entry(nn.Module):
    """A function of a module, as torch.export wants it: as the `forward` of one that holds the weights."""

    def __init__(self, tower: nn.Module, function: Callable):
        super().__init__()
        self.tower, self.function = tower, function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def converted(tower: nn.Module, function: Callable, shape: tuple[int, ...]):
    """OpenVINO's model of the function, for one shape; InputError if it has operations that OpenVINO lacks.

    Through OpenVINO's frontend: `openvino.convert_model` would report its use to a server on the network.
    """
    frontend = require_openvino().frontend
    with torch.no_grad(), without_warnings():
        program = torch.export.export(Entry(tower, function).eval(), (torch.zeros(shape),))
        decoder = frontend.pytorch.fx_decoder.TorchFXPythonDecoder.from_exported_program(program)
        pytorch = frontend.FrontEndManager().load_by_framework("pytorch")
        try:
            model = pytorch.convert(pytorch.load(decoder))
        except frontend.OpConversionFailure as error:
            lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-- ")]
            raise InputError(f"OpenVINO cannot run {tower.name}: {'; '.join(lines)}; choose backend torch") from None
    model.reshape([*shape])  # exported inputs come with unknown sizes, and other sizes would give wrong results
    return model


@contextlib.contextmanager
def without_warnings():
    """Converting prints warnings, with tracebacks, about operations of PyTorch that do not occur."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
