"""The most memory that a run has used."""

import sys

import torch


def peak_megabytes(device: torch.device) -> float:
    """Of this process: on an accelerator what PyTorch has allocated there, else what the system has given it; nan where
    that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
