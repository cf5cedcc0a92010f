"""Which of two functions that compute the same is faster on this processor: a choice by name, or by a measurement."""

import os
import time

import torch

from proxyclip.errors import InputError

TRIALS = 4


def ours_is_faster(variable: str, names: tuple[str, str], plain, ours, arguments, margin: float) -> bool:
    """Whether to use `ours` instead of PyTorch's own function, `plain`.

    The environment variable names one of them, by `names` in that order; where it is unset, both are measured, and
    ours must be faster by the factor `margin`. Cached by the caller, once per process and type.
    """
    chosen = os.environ.get(variable, "")
    if chosen not in ("", *names):
        raise InputError(f"{variable} is {chosen!r}; choose {names[0]} or {names[1]}, or leave it unset to measure")
    if chosen:
        return chosen == names[1]
    seconds, our_seconds = measure(plain, ours, arguments)
    return seconds > margin * our_seconds


def measure(plain, ours, arguments) -> tuple[float, float]:
    """Seconds of both functions, the best of a few alternating trials.

    Runs on one thread and uses its CPU time, so that other processes hardly affect the result.
    """
    seconds = {plain: [], ours: []}
    clock = time.perf_counter if os.name == "nt" else time.thread_time  # Windows counts threads' time in steps of 16 ms
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(TRIALS):
                for function, taken in seconds.items():
                    start = clock()
                    function(*arguments)
                    taken.append(clock() - start)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[plain]), min(seconds[ours])
