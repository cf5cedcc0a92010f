"""Windows in batches of one size, which is reduced when a batch does not fit in memory.

Shapes: B windows of a batch.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from proxyclip.errors import InputError

Found = TypeVar("Found")

# Of a batch on a CPU: with more of any of them, a window takes hardly less time, and a padded batch more.
CPU_TOKENS, CPU_WINDOWS, CPU_WORK = 2560, 12, 7 * 10**9  # work: tokens times parameters
ACCELERATOR_TOKENS = 32_768
TOKEN_BYTES = 128 * 1024  # of memory for each token: more than a ViT-H/14 in float32 takes with proxy attention


class Batches:
    """Computes windows in batches of `size`.

    A batch that does not fit in an accelerator's memory halves `size` for this and all later calls, with a warning.
    """

    def __init__(self, size: int):
        self.size = size

    def run(
        self, compute: Callable[[Tensor], Sequence[Found]], crops: Sequence[Tensor], padded: bool = False
    ) -> list[Found]:
        """What `compute` gives for each of the crops (3, c_h, c_w), as part of a batch (B, 3, c_h, c_w).

        padded: whether the last batch is filled up to `size`. Then a crop's result does not depend on the number of
        crops: processors compute batches of different sizes with different rounding, but all places of a batch alike.
        Raises InputError if a single crop does not fit in memory.
        """
        done: list[Found] = []
        while len(done) < len(crops):
            part = crops[len(done) : len(done) + self.size]
            filling = [part[-1]] * (self.size - len(part)) if padded else []
            try:
                done += [*compute(torch.stack([*part, *filling]))][: len(part)]
                continue
            except torch.OutOfMemoryError:
                failed = len(part) + len(filling)
            self.reduce(failed, part[0])  # outside the except block, which holds on to the memory of the failed batch
        return done

    def reduce(self, failed: int, crop: Tensor) -> None:
        """Halves the size after a batch of so many windows has failed."""
        if failed == 1:
            height, width = crop.shape[-2:]
            raise InputError(
                f"one window of {height}x{width} pixels does not fit in the memory of {crop.device}: choose a smaller "
                "crop, precision bf16 or fp16, or device cpu"
            )
        self.size = failed // 2
        warnings.warn(
            f"{failed} windows do not fit in the memory of {crop.device} together; continuing with {self.size} at a "
            f"time (--batch-windows {self.size} does so from the start)",
            stacklevel=2,
        )


def windows_per_batch(side: int, patch_size: int, device: torch.device, parameters: int) -> int:
    """How many windows of side × side pixels form a batch of a model with so many parameters: on a CPU, several for
    small models only; elsewhere as many as their tokens and free memory allow."""
    tokens = max(1, side // patch_size) ** 2
    if device.type == "cpu":
        return max(1, min(CPU_WINDOWS, CPU_TOKENS // tokens, CPU_WORK // (tokens * max(1, parameters))))
    most = ACCELERATOR_TOKENS
    if device.type == "cuda":
        most = min(most, torch.cuda.mem_get_info(device)[0] // TOKEN_BYTES)
    return max(1, most // tokens)
