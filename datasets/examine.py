"""Checks one split of a dataset on disk: what is there, what is wrong with it, and how to fix it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.downloads import archives
from datasets.folder import PairFiles
from datasets.label_map import VOID, LabelValues
from datasets.segmentation import SegmentationData
from proxyclip.errors import InputError, NotFound
from proxyclip.images import read_image


@dataclass
class Diagnosis:
    """The result for one split of one dataset. state: "ok", "invalid" or "missing"."""

    name: str
    path: Path
    state: str = "ok"
    lines: list[str] = field(default_factory=list)

    def __str__(self):
        return "\n".join([f"{self.name}: {self.state}, in {self.path}", *(f"    {line}" for line in self.lines)])


def examine(data: SegmentationData, root: Path, split: str = "val", sample: int = 50) -> Diagnosis:
    """Checks one split of a dataset: files, counts, and `sample` pairs of image and label map.

    Raises InputError if the dataset has no such split.
    """
    files = data.split(split)
    diagnosis = Diagnosis(data.name, root / data.folder)
    try:
        folder = data.open(root, split, allow_missing=True)
    except (NotFound, InputError) as error:
        diagnosis.state = "missing" if isinstance(error, NotFound) else "invalid"
        diagnosis.lines += [str(error), *fixes(data, split)]
        return diagnosis
    missing = set(folder.missing())
    images = sum(item.image not in missing for item in folder.items)
    labels = sum(item.label not in missing for item in folder.items)
    expected = " or ".join(map(str, files.count)) or "any number"
    diagnosis.lines.append(f"{split}: {images} images and {labels} labels; expected: {expected}")
    faults = [f"{len(missing)} files not found, the first: {min(missing)}"] if missing else []
    if not missing and files.count and len(folder) not in files.count:
        faults.append(f"{len(folder)} pairs, not {expected}: scores cannot be compared with published ones")
    complete = [item for item in folder.items if not missing & {item.image, item.label}]
    pixels, bad = check_pairs(spread(complete, sample), folder.values)
    if pixels:
        diagnosis.lines.append(histogram(data, pixels))
    if faults or bad:
        # Images without a single label: the download is there, but has not been converted.
        diagnosis.state = "invalid" if labels else "missing"
        diagnosis.lines += [*faults, *bad, *fixes(data, split)]
    return diagnosis


def fixes(data: SegmentationData, split: str) -> list[str]:
    """What to download and what to run, one line each."""
    commands = [f"run: python -m datasets.prepare {name}" for name in data.split(split).prepare]
    downloads = [data.source] if data.source else archives(data.name, split)
    return [*(f"download: {entry}" for entry in downloads), *commands]


def spread(items: list, count: int) -> list:
    """At most `count` of the items, evenly spaced."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def check_pairs(items: list[PairFiles], values: LabelValues) -> tuple[Counter, list[str]]:
    """Pixels per class, and what is wrong with the pairs: the number of faulty ones, and the first one."""
    pixels, bad, sizes = Counter(), [], []
    for item in items:
        try:
            image, label = read_image(item.image), values.read(item.label)
        except (NotFound, InputError) as error:
            bad.append(str(error))
            continue
        if image.shape[:2] != label.shape:
            sizes.append(f"{item.image} {image.shape[1]}x{image.shape[0]}, label {label.shape[1]}x{label.shape[0]}")
        indices, counts = np.unique(label, return_counts=True)
        pixels.update(dict(zip(indices.tolist(), counts.tolist(), strict=True)))
    faults = [f"{len(bad)} of {len(items)} sampled pairs cannot be used, the first: {bad[0]}"] if bad else []
    if sizes:
        faults.append(f"{len(sizes)} of {len(items)} sampled images differ from their label in size: {sizes[0]}")
    return pixels, faults


def histogram(data: SegmentationData, pixels: Counter) -> str:
    """The most frequent classes of a sample in percent of all its pixels, and how many classes do not occur in it."""
    total = sum(pixels.values())
    shares = [f"{data.classes[i] if i != VOID else 'void'} {n / total:.1%}" for i, n in pixels.most_common(8)]
    absent = len(data.classes) - len(pixels.keys() - {VOID})
    return f"pixels: {', '.join(shares)}; {absent} of {len(data.classes)} classes not in the sample"
