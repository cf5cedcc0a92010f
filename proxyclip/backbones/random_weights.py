"""Random weights that are the same every time, without a trace in the caller's random numbers."""

from contextlib import contextmanager

import torch


@contextmanager
def fixed_seed():
    """Inside, random weights are made on the CPU in float32, from a seed of their own: the same ones every time.

    The caller's generators are left as they were; torch.manual_seed would also reseed those of every accelerator.
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
