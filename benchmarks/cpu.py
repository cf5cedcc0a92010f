"""The processor: its name, its matrix product speed, and our CPU kernels compared with PyTorch's."""

import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from proxyclip.backbones.cpu_kernels import attend, convolution, convolutions_are_faster


def processor() -> str:
    """The processor's name, cores, instructions, and how its linear layers are computed."""
    name, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if information.is_file():
        lines = [line.partition(":") for line in information.read_text().splitlines()]
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    fp32, bf16 = ("oneDNN" if convolutions_are_faster(dtype) else "MKL" for dtype in (torch.float32, torch.bfloat16))
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    machine = f"{name}, {capability}, {threads} threads, torch {torch.__version__}"
    return f"{machine}; linear layers by {fp32} in fp32 and by {bf16} in bf16"


def product_speed(dtype: torch.dtype) -> float:
    """FLOP/s of a 4096³ matrix product."""
    a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
    return 2 * 4096**3 / min(timed(lambda: a @ b)[0] for _ in range(4))


def timed(function) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def parts() -> None:
    """Prints the time of our attention and convolutions and of PyTorch's kernels, at the sizes of DINO-B/8 and
    CLIP-B/16."""
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (1765, 442):
            q, k, v = torch.randn(3, 1, 12, tokens, 64).to(dtype)
            compare_part(f"{dtype} attention, {tokens} tokens", (F.scaled_dot_product_attention, attend), (q, k, v))
            x = torch.randn(1, tokens, 768).to(dtype)
            weight, bias = torch.randn(3072, 768).to(dtype), torch.randn(3072).to(dtype)
            compare_part(f"{dtype} linear 768 -> 3072, {tokens} tokens", (F.linear, convolution), (x, weight, bias))


def compare_part(name: str, functions, arguments, rounds: int = 20) -> None:
    """Medians of two functions run in turn."""
    seconds = {function: [] for function in functions}
    with torch.inference_mode():
        for _ in range(rounds):
            for function in functions:
                start = time.perf_counter()
                function(*arguments)
                seconds[function].append(time.perf_counter() - start)
    theirs, ours = (statistics.median(values) * 1e3 for values in seconds.values())
    print(f"{name:<50} PyTorch {theirs:6.1f} ms, here {ours:6.1f} ms, {theirs / ours:.2f}x")
