"""Position tables for patch grids other than the one a model was trained with.

Bicubic resampling is linear and acts on rows and columns separately: new[:, :, d] = R · old[:, :, d] · Cᵀ. The matrices
R and C depend on sizes alone, so they can be cached while training changes the table, and gradients reach the table.

Shapes: M_h x M_w the table's own grid, h x w the wanted one, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.precision import exact_float32
from proxyclip.bounded_cache import BoundedCache

MATRICES = BoundedCache(max_bytes=32 * 2**20, size_of=lambda matrix: matrix.nbytes)  # whole images come in many sizes


def resample(table: Tensor, size: tuple[int, int], offset: float | None = None, antialias: bool = False) -> Tensor:
    """A table (M_h, M_w, D) at `size` = (h, w): (h, w, D) in float32, whatever the type of the table.

    offset: None places the sampling points by the two sizes; a number places them by the scale factor
    (n + offset) / M, as the published code of CLIP and DINO does with 0.1. antialias: as of F.interpolate.
    """
    rows, columns = (
        sampling_matrix(length, out, offset, antialias, table.device)
        for length, out in zip(table.shape[:2], size, strict=True)
    )  # (h, M_h), (w, M_w)
    with exact_float32(table.device):
        table = (rows @ table.float().flatten(1)).unflatten(1, table.shape[1:])  # (h, M_w, D)
        return columns @ table  # (h, w, D)


def sampling_matrix(length: int, out: int, offset: float | None, antialias: bool, device: torch.device) -> Tensor:
    """(out, length), float32, on `device`: the matrix by which F.interpolate resamples one axis, cached."""

    def make() -> Tensor:
        # On the CPU for every device, and outside inference mode: MPS has no antialiased bicubic resampling, and a
        # tensor of inference mode could not take part in training later.
        with torch.inference_mode(False), torch.no_grad():
            unit = torch.eye(length, dtype=torch.float32, device="cpu")[None, None]  # (1, 1, length, length)
            where = {"size": (out, length)} if offset is None else {"scale_factor": ((out + offset) / length, 1.0)}
            return F.interpolate(unit, mode="bicubic", antialias=antialias, **where)[0, 0].to(device)  # (out, length)

    if torch.compiler.is_compiling():
        return make()  # a tensor of a trace must not outlive it
    return MATRICES.get((length, out, offset, antialias, device), make)
