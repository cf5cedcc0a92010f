"""Reading label maps from MATLAB files."""

from pathlib import Path

import numpy as np

from proxyclip.errors import InputError, NotFound
from proxyclip.images import check_regular_file


def read_mat(path: Path) -> dict:
    """The variables of a MATLAB file. Needs scipy, which nothing else here does."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise NotFound("reading .mat files needs scipy: pip install -r requirements-prepare.txt") from None
    check_regular_file(path, f"the MATLAB file {path}")
    try:
        return loadmat(path, appendmat=False)
    except Exception as error:  # for a damaged file scipy has no error of its own, but a dozen of Python's
        raise InputError(f"{path} cannot be read as a MATLAB file: {error}") from None


def as_label_map(value, highest: int, path: Path) -> np.ndarray:
    """(H, W), a variable of a MATLAB file, checked: whole numbers from 0 to `highest`."""
    matrix = isinstance(value, np.ndarray) and value.ndim == 2 and value.size and value.dtype.kind in "iuf"
    if not matrix or (value != np.round(value)).any():
        raise InputError(f"{path} does not contain a label map: expected a matrix of integers")
    if value.min() < 0 or value.max() > highest:
        raise InputError(f"{path} contains labels from {value.min()} to {value.max()}, not 0 to {highest}")
    return value
