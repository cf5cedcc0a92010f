"""The processor: its name, its matrix product speed, and our CPU kernels compared with PyTorch's."""

import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from proxyclip.backbones.cpu_kernels import (
    attend_by_rows,
    convolution,
    convolutions_are_faster,
    convolved_product,
    convolved_products_are_faster,
    plain_product,
    rows_are_faster,
)

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def processor() -> str:
    """The processor's name, threads and instructions, and how layers are computed on it."""
    name, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if information.is_file():
        lines = [line.partition(":") for line in information.read_text().splitlines()]
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    machine = f"{name}, {capability}, {threads} threads, torch {torch.__version__}"
    return "; ".join([machine, *(f"in {label} {choices(dtype)}" for label, dtype in TYPES.items())])


def choices(dtype: torch.dtype) -> str:
    """What was chosen for linear layers, products and attention."""
    linear, product = (
        "oneDNN" if faster(dtype) else "MKL" for faster in (convolutions_are_faster, convolved_products_are_faster)
    )
    attention = "by rows" if rows_are_faster(dtype) else "fused"
    return f"linear layers by {linear}, products by {product}, attention {attention}"


def product_speed(dtype: torch.dtype) -> float:
    """FLOP/s of a 4096³ matrix product."""
    a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
    return 2 * 4096**3 / min(timed(lambda: a @ b)[0] for _ in range(4))


def timed(function) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def parts() -> None:
    """Prints the time of our CPU kernels and of PyTorch's, at the sizes of DINO-B/8 and CLIP-B/16."""
    for label, dtype in TYPES.items():
        for tokens in (1765, 442):
            q, k, v = torch.randn(3, 1, 12, tokens, 64).to(dtype)
            compare_part(
                f"{label} attention, {tokens} tokens", F.scaled_dot_product_attention, attend_by_rows, (q, k, v)
            )
            x = torch.randn(1, tokens, 768).to(dtype)
            weight, bias = torch.randn(3072, 768).to(dtype), torch.randn(3072).to(dtype)
            compare_part(f"{label} linear 768 -> 3072, {tokens} tokens", F.linear, convolution, (x, weight, bias))
            compare_part(f"{label} product, {tokens} tokens", plain_product, convolved_product, (x, x))


def compare_part(name: str, theirs, ours, arguments, rounds: int = 20) -> None:
    """Medians of PyTorch's function and ours, run in turn."""
    seconds = {theirs: [], ours: []}
    with torch.inference_mode():
        for _ in range(rounds):
            for function in seconds:
                start = time.perf_counter()
                function(*arguments)
                seconds[function].append(time.perf_counter() - start)
    plain, other = (statistics.median(values) * 1e3 for values in seconds.values())
    print(f"{name:<40} PyTorch {plain:6.1f} ms, here {other:6.1f} ms, {plain / other:.2f}x")
