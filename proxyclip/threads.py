"""How the threads of a model on a CPU wait for one another: asleep.

OpenMP threads that reach the end of a step wait by spinning. On a machine that other programs use, too, they take the
cores that the slowest of them needs. OpenMP reads how to wait when torch is imported: `main_guard` sets it before, for
every script; with the library, set OMP_WAIT_POLICY=passive in the environment, or call `wait_passively` before the
first import of torch.
"""

import os


def wait_passively() -> None:
    """Lets OpenMP threads sleep while they wait, unless the environment says how they wait. Call it before torch."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # GNU's OpenMP, of torch's wheels for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's
