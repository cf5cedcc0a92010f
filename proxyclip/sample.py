"""What goes into a model's loop over images, and how what comes out reaches the host.

Shapes: H × W the image, h × w the image as it is scored.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxyclip.label_rule import LabelMap

BEHIND = 2  # label maps that are copied while an accelerator goes on


class Sample(NamedTuple):
    """An image on its way through a model.

    image: as given by `Scorer.prepare` or `Scorer.staged`. size: height and width of the label map. name: by which a
    refinement finds its masks. given: anything that belongs to the image; it comes out with the label map.
    """

    image: Tensor
    size: tuple[int, int]
    name: str | None = None
    given: Any = None


def named(images, names) -> Iterator[tuple]:
    """Each image with its name: the given ones, or those of files; None where there is neither."""
    if names is not None:
        yield from zip(images, names, strict=True)
        return
    for source in images:
        yield source, Path(source).stem if isinstance(source, (str, os.PathLike)) else None


def to_host(found: Iterable[tuple[Sample, LabelMap]], device: torch.device) -> Iterator[tuple[Sample, LabelMap]]:
    """The same label maps in the host's memory, in order. An accelerator does not wait: maps are copied to pinned
    memory behind its work and given out when they have arrived, up to `BEHIND` images later."""
    if device.type != "cuda":
        for sample, label_map in found:
            yield sample, on_host(label_map, wait=True)
        return
    copies = deque()
    for sample, label_map in found:
        copies.append((sample, on_host(label_map, wait=False), torch.cuda.Event()))
        copies[-1][2].record(torch.cuda.current_stream(device))
        if len(copies) > BEHIND:
            yield arrived(*copies.popleft())
    while copies:
        yield arrived(*copies.popleft())


def arrived(sample: Sample, label_map: LabelMap, event) -> tuple[Sample, LabelMap]:
    event.synchronize()
    return sample, label_map


def on_host(label_map: LabelMap, wait: bool) -> LabelMap:
    """A copy in the host's memory; without waiting, in pinned memory that is valid once the device has got that far."""
    labels, confidence, maps = label_map

    def copy(part: Tensor) -> Tensor:
        return part.to("cpu", non_blocking=not wait)

    return LabelMap(copy(labels), copy(confidence), {index: copy(part) for index, part in maps.items()})
