"""Lets the CPU threads of a model sleep while they wait for each other.

By default, OpenMP threads wait by spinning. On a machine that runs other programs as well, they occupy the cores that
the slowest thread needs. OpenMP reads its wait policy when torch is imported. `main_guard` sets it for all scripts;
when using the library, set OMP_WAIT_POLICY=passive in the environment, or call `wait_passively` before the first import
of torch.
"""

import os


def wait_passively() -> None:
    """Lets OpenMP threads sleep while waiting, unless the environment sets a policy. Call it before importing torch."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # GNU's OpenMP, of torch's wheels for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's
