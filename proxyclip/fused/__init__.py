"""Kernels in Triton for what PyTorch does in several passes over memory. Triton comes with PyTorch for CUDA.

Each kernel gives the result of the PyTorch operations that it replaces, up to rounding. Where Triton is missing or does
not work, those are used. PROXYCLIP_GPU_KERNELS=pytorch chooses them everywhere, =triton requires the kernels.
"""

import os
import warnings
from functools import cache
from importlib.util import find_spec

import torch

from proxyclip.errors import InputError

VARIABLE, CHOICES = "PROXYCLIP_GPU_KERNELS", ("", "triton", "pytorch")
TRITON = find_spec("triton") is not None


def available(device: torch.device) -> bool:
    """Whether the kernels run on that device; torch.compile fuses the operations in PyTorch by itself."""
    return device.type == "cuda" and not torch.compiler.is_compiling() and works(device)


@cache
def works(device: torch.device) -> bool:
    """Whether Triton runs a small kernel there: it needs a C compiler and a device that is not too old."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in CHOICES:
        raise InputError(f"{VARIABLE} is {chosen!r}; choose triton or pytorch, or leave it unset")
    if chosen == "pytorch" or not (TRITON or chosen):
        return False
    try:
        from proxyclip.fused.proxy_weights import weigh  # here: it needs Triton

        one = torch.ones(1, 1, 1, device=device)
        weigh(one, one, one, 1.0, 0, torch.float32)
    except Exception as error:  # what it raises without a compiler or for an old device differs between releases
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if chosen:
            raise InputError(f"{VARIABLE} is triton, but Triton does not work on {device}: {reason}") from None
        warnings.warn(f"Triton does not work on {device} ({reason}); using PyTorch's slower kernels", stacklevel=2)
        return False
    return True
