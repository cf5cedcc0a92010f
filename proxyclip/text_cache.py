"""Text embeddings on disk: one file per text encoder and list of templates, with one row per name.

Several processes may write at the same time: each adds its rows to the current contents of the file and replaces it as
a whole. A row lost in between is simply encoded again.
"""

import hashlib
import json
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from proxyclip.backbones.weights import cache_folder
from proxyclip.files import write_whole

MAX_BYTES = 256 * 2**20  # per file: 130,000 names of ViT-B/16; the oldest rows go first
KEY_BYTES = 16


def file_for(*parts) -> Path:
    """The file for everything that the rows share: text weights, templates, tokenizer."""
    return cache_folder() / "text" / f"{digest(parts).hex()}.safetensors"


def digest(parts) -> bytes:
    """A key of 16 bytes from plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:KEY_BYTES]


def read_rows(file: Path, shape: tuple[int, ...]) -> dict[bytes, Tensor]:
    """Key -> embedding of that shape, in float32; a file that cannot be used brings a warning and counts as empty."""
    try:
        return load_rows(file, shape)
    except UnusableCache as error:
        warnings.warn(f"text cache {file} {error}; rebuilding it", stacklevel=2)
        return {}


def add_rows(file: Path, rows: dict[bytes, Tensor]) -> None:
    """Adds embeddings to the file; a folder that cannot be written to brings one warning per process."""
    from safetensors.torch import save

    shape = next(iter(rows.values())).shape
    with suppress(UnusableCache):  # the warning came when it was read
        rows = load_rows(file, shape) | rows
    newest = list(rows)[-max(1, MAX_BYTES // (4 * shape.numel())) :]
    keys = torch.frombuffer(bytearray(b"".join(newest)), dtype=torch.uint8).view(-1, KEY_BYTES)  # (N, 16)
    data = save({"keys": keys, "embeddings": torch.stack([rows[key] for key in newest])})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda part: part.write(data))
    except OSError as error:
        reason = f"{file.parent}: {error.strerror or error}"  # the name of the temporary file changes each time
        warn_once(f"text embeddings cannot be cached ({reason}); they will be computed again")


class UnusableCache(ValueError):
    """Says what is wrong with a cache file, as the end of a sentence about it."""


def load_rows(file: Path, shape: tuple[int, ...]) -> dict[bytes, Tensor]:
    """As `read_rows`; raises UnusableCache."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        held = load(file.read_bytes())  # not mapped into memory: another process may replace the file
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UnusableCache(f"cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise UnusableCache(f"is corrupted ({error})") from None
    keys, embeddings = held.get("keys"), held.get("embeddings")
    if keys is None or embeddings is None or keys.dtype != torch.uint8 or embeddings.dtype != torch.float32:
        raise UnusableCache("is corrupted (other tensors than keys and embeddings)")
    if not embeddings.dim() or embeddings.shape[1:] != shape or keys.shape != (len(embeddings), KEY_BYTES):
        raise UnusableCache(f"is corrupted (wrong shapes: keys {[*keys.shape]}, embeddings {[*embeddings.shape]})")
    if not embeddings.isfinite().all():
        raise UnusableCache("is corrupted (values that are not finite)")
    return {bytes(key): row for key, row in zip(keys.numpy(), embeddings, strict=True)}


@cache
def warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)
