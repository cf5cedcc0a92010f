"""Masks from a folder, made by any other program: each one takes the class with the largest mean score in it.

For an image "a/b" (its name or path below the folder or dataset, without its ending), the folder contains a/b.png, with
the number of the region that each pixel belongs to (8 or 16 bits, 0: no mask), or a/b.npz, with the boolean array
`masks` (N, H, W), which may overlap. Both have the size of the image.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proxyclip import refine
from proxyclip.errors import InputError, NotFound
from proxyclip.images import check_regular_file, decode, open_image
from proxyclip.refine import Guide, Maps

ENDINGS = (".png", ".npz")


@dataclass(frozen=True)
class Options:
    """folder: contains the masks."""

    folder: str

    def __post_init__(self):
        if not os.path.isdir(self.folder):
            raise NotFound(f"the folder of masks {self.folder} does not exist")


class ByMasks(refine.Refinement):
    """A refinement defines `masks`. Where masks overlap, the smallest one decides; pixels in no mask keep their
    scores."""

    def masks(self, guide: Guide) -> Iterable[Tensor]:
        """The masks of an image: for each one the index of its pixels in the image, row by row, (pixels,) int64."""
        raise NotImplementedError

    def __call__(self, maps: Maps, guide: Guide) -> Maps:
        image = guide.image
        masks = sorted(self.masks(guide), key=len, reverse=True)  # the largest first
        owner = torch.full((image[0].numel(),), len(masks), device=image.device)  # (H * W,); len(masks): no mask
        for number, mask in enumerate(masks):
            owner[mask] = number
        outside = (owner == len(masks)).view(image.shape[-2:])  # (H, W)

        def refined(queries: slice) -> Tensor:
            found = maps(queries)  # (q, H, W)
            pixels = found.flatten(1)  # (q, H * W)
            means = [pixels[:, mask].mean(1) for mask in masks]  # N of (q,)
            means = torch.stack([*means, pixels.new_zeros(len(pixels))], dim=1)  # (q, N + 1)
            return torch.where(outside, found, means[:, owner].view_as(found))  # (q, H, W)

        return refined


class Masks(ByMasks):
    """Masks that are read from files."""

    def __init__(self, options: Options):
        super().__init__(options)
        self.files, self.fingerprint = inventory(Path(options.folder))

    def masks(self, guide: Guide) -> Iterable[Tensor]:
        size = tuple(guide.image.shape[-2:])
        return [torch.from_numpy(mask).to(guide.image.device) for mask in read_masks(self.file(guide.name), size)]

    def file(self, name: str | None) -> Path:
        """The masks of the image with that name."""
        if name is None:
            raise InputError("masks from a folder are found by the name of the image: pass a path, or its name as well")
        folder = Path(self.options.folder)
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise InputError(f"{name!r} cannot be the name of an image with masks in {folder}")
        files = [folder / f"{name}{ending}" for ending in ENDINGS]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise NotFound(f"there are no masks for image {name}: {files[0]} does not exist")
        return found

    def check(self, names: Iterable[str]) -> None:
        for name in names:
            self.file(name)

    def settings(self) -> dict:
        """With the names and sizes of all files in place of the folder, which may be moved."""
        return {"name": self.name, "files": self.files, "fingerprint": self.fingerprint}

    @property
    def title(self) -> str:
        return f"{self.name}:{Path(self.options.folder).resolve().name} {self.fingerprint[:6]}"


def inventory(folder: Path) -> tuple[int, str]:
    """The number of files with masks, and a fingerprint of their names and sizes."""
    found = sorted(
        (Path(place, name).relative_to(folder).as_posix(), os.path.getsize(Path(place, name)))
        for place, _, names in os.walk(folder)
        for name in names
        if name.endswith(ENDINGS)
    )
    if not found:
        raise NotFound(f"the folder of masks {folder} contains no {' or '.join(ENDINGS)} file")
    return len(found), hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def read_masks(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """The index of the pixels of each mask in a file, (pixels,) int64 each; InputError unless it is of that size."""
    if path.suffix == ".npz":
        masks = read_boolean(path)  # (N, H, W)
        check_size(path, masks.shape[1:], size)
        return [np.flatnonzero(mask) for mask in masks]
    with open_image(path, "mask file") as image:
        decode(image, f"mask file {path}")
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise InputError(
                f"mask file {path} has mode {image.mode}: save region numbers with 8 or 16 bits, one channel"
            )
        regions = np.asarray(image).astype(np.int64)  # (H, W)
    check_size(path, regions.shape, size)
    order = regions.ravel().argsort(kind="stable")  # (H * W,): pixels of a region are neighbours
    numbers, starts = np.unique(regions.ravel()[order], return_index=True)
    parts = np.split(order, starts[1:])
    return [part for number, part in zip(numbers, parts, strict=True) if number != 0]


def read_boolean(path: Path) -> np.ndarray:
    """(N, H, W) bool."""
    check_regular_file(path, f"mask file {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            masks = stored["masks"]
    except KeyError:
        raise InputError(f"mask file {path} has no array `masks`") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read mask file {path}: {error}") from None
    if masks.dtype != bool or masks.ndim != 3:
        raise InputError(f"mask file {path}: `masks` must be boolean (N, H, W), not {masks.dtype} {masks.shape}")
    return masks


def check_size(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found != size:
        raise InputError(
            f"mask file {path} has {found[0]}x{found[1]} pixels (height x width), its image {size[0]}x{size[1]}"
        )


Refinement = Masks
