"""A model's scores, compiled by torch.compile.

Shapes: B windows of c × c pixels, Q queries, h × w the scores of one window.
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

from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError

MAX_SHAPES = 10_000  # torch.compile stops after 8 unless told otherwise, and runs further ones without compiling them


class CompiledScores:
    """`window_scores` of a model, with the same arguments and result up to rounding.

    Every shape of a batch is compiled once, which takes up to minutes: it is worth it for many windows of one shape.
    How long it took is printed. backend: of torch.compile.
    """

    def __init__(self, window_scores, backend: str = "inductor"):
        self.run = torch.compile(window_scores, dynamic=False, backend=backend)
        self.shapes = set()

    def __call__(self, crops: Tensor, text: Tensor) -> Tensor:
        """(B, 3, c, c), (Q, E) or (Q, P, E) -> (B, Q, h, w); InputError if the compiler does not work here."""
        shapes, started = (crops.shape, text.shape), time.monotonic()
        limits = dict.fromkeys(("recompile_limit", "accumulated_recompile_limit"), MAX_SHAPES)
        # A compiled graph cannot switch the process's settings.
        with exact_float32(crops.device), torch._dynamo.config.patch(limits):
            try:
                scores = self.run(crops, text)
            except torch._dynamo.exc.TorchDynamoException as error:  # also of a Triton that is missing or too old
                cause = getattr(error, "inner_exception", error)
                reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
                raise InputError(f"torch.compile does not work on this machine: {reason}") from None
        if shapes in self.shapes:
            return scores
        if crops.device.type == "cuda":
            torch.cuda.synchronize(crops.device)
        self.shapes.add(shapes)
        windows = f"{len(crops)} windows of {crops.shape[-2]}x{crops.shape[-1]} pixels"
        print(f"compiled for batches of {windows} in {time.monotonic() - started:.0f} s", file=sys.stderr)
        return scores


OPENVINO_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of the processor -> OpenVINO's names


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
            "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[dtype],
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
