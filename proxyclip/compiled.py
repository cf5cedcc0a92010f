"""A model's scores, compiled by torch.compile.

Shapes: B windows of c × c pixels, Q queries, h × w the scores of one window.
"""

import sys
import time

import torch
from torch import Tensor

from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError


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
        with exact_float32(crops.device):  # a compiled graph cannot switch the process's settings
            if (shapes := (crops.shape, text.shape)) in self.shapes:
                return self.run(crops, text)
            started = time.monotonic()
            try:
                scores = self.run(crops, text)
            except torch._dynamo.exc.BackendCompilerFailed as error:
                reason = (str(error.inner_exception).strip() or type(error.inner_exception).__name__).splitlines()[0]
                raise InputError(f"torch.compile does not work on this machine: {reason}") from None
        if crops.device.type == "cuda":
            torch.cuda.synchronize(crops.device)
        self.shapes.add(shapes)
        windows = f"{len(crops)} windows of {crops.shape[-2]}x{crops.shape[-1]} pixels"
        print(f"compiled for batches of {windows} in {time.monotonic() - started:.0f} s", file=sys.stderr)
        return scores
