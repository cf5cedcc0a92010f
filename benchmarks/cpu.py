"""The processor: its name, its matrix product speed, and our CPU kernels compared with PyTorch's."""

import platform
import time
from pathlib import Path

import torch

from proxyclip.backbones.layers import cpu_linear

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def processor() -> str:
    """The processor's name, threads and instructions, and how layers are computed on it."""
    name, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if information.is_file():
        lines = [line.partition(":") for line in information.read_text().splitlines()]
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    machine = f"{name}, {capability}, {threads} threads, torch {torch.__version__}"
    return f"{machine}, linear layers by {cpu_linear()}"


def product_speed(dtype: torch.dtype) -> float:
    """FLOP/s of a 4096³ matrix product."""
    a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
    return 2 * 4096**3 / min(timed(lambda: a @ b)[0] for _ in range(4))


def timed(function) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result
