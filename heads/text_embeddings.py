"""Text embeddings from a .npy file, as the published codebases distribute them."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from proxyclip.errors import InputError, NotFound


def read_text_embeddings(file: str | Path, classes: tuple[str, ...], width: int, prompts: int | None) -> Tensor:
    """(K, E), or (K, P, E) if `prompts` is given, float32; one row per class, not normalised again.

    Raises NotFound, and InputError for a file that is not an array of floating-point numbers of this shape.
    """
    if not Path(file).is_file():
        raise NotFound(f"text embeddings {file} do not exist")
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
        raise InputError(f"text embeddings {file} cannot be read: not a .npy file of numbers ({error})") from None
    shape = (len(classes), width) if prompts is None else (len(classes), prompts, width)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape != shape:
        found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise InputError(
            f"text embeddings {file} hold {found}, but {shape} floating-point numbers are needed: one row for "
            f"each of {len(classes)} classes, {f'{prompts} prompts each, ' if prompts else ''}as wide as this CLIP's"
        )
    embeddings = torch.from_numpy(array.astype(np.float64)).float()  # larger values than float32 has become infinite
    if not embeddings.isfinite().all():
        raise InputError(f"text embeddings {file} contain values that are not finite")
    return embeddings
