"""Reproducible random weights, without side effects on the caller's random numbers."""

from contextlib import contextmanager

import torch


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
