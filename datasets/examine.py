"""One split of a dataset on disk: what is there, what is wrong with it, and what repairs it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.folder import Item, read_image, read_label
from datasets.segmentation import VOID, SegmentationData
from proxyclip.errors import InputError, NotFound


@dataclass
class Diagnosis:
    """What was found of one split of one dataset. state: "fine", "faulty" or "missing"."""

    name: str
    path: Path
    state: str = "fine"
    lines: list[str] = field(default_factory=list)

    def __str__(self):
        return "\n".join([f"{self.name}: {self.state}, in {self.path}", *(f"    {line}" for line in self.lines)])


def examine(data: SegmentationData, root: Path, split: str = "val", sample: int = 50) -> Diagnosis:
    """Looks at one split of a dataset: files, counts, `sample` labels and their images."""
    diagnosis = Diagnosis(data.name, root / data.folder)
    try:
        folder = data.open(root, split, allow_missing=True)
    except (NotFound, InputError) as error:
        diagnosis.state = "missing" if isinstance(error, NotFound) else "faulty"
        diagnosis.lines.append(str(error))
        return diagnosis
    missing = set(folder.missing())
    images = sum(item.image not in missing for item in folder.items)
    labels = sum(item.label not in missing for item in folder.items)
    expected = " or ".join(map(str, counts)) if (counts := data.splits[split].count) else "any number"
    diagnosis.lines.append(f"{split}: {images} images and {labels} labels; expected: {expected}")
    faults = [f"{len(missing)} files not found, the first: {min(missing)}"] if missing else []
    if not missing and counts and len(folder) not in counts:
        faults.append(f"{len(folder)} pairs, not {expected}: scores cannot be compared with published ones")
    complete = [item for item in folder.items if not missing & {item.image, item.label}]
    pixels, bad = look_at(spread(complete, sample), data)
    if pixels:
        diagnosis.lines.append(histogram(data, pixels))
    if faults or bad:
        # Images without a single label: the download is there, and still to be converted.
        diagnosis.state = "faulty" if labels else "missing"
        diagnosis.lines += [*faults, *bad, f"mend: {data.mend(split)}"]
    return diagnosis


def spread(items: list, count: int) -> list:
    """At most `count` of the items, evenly spread."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def look_at(items: list[Item], data: SegmentationData) -> tuple[Counter, list[str]]:
    """How many pixels each class has, and what is wrong with the pairs: how many of them, and the first one."""
    pixels, bad, sizes = Counter(), [], []
    for item in items:
        try:
            image, label = read_image(item.image), read_label(item.label, data)
        except (NotFound, InputError) as error:
            bad.append(str(error))
            continue
        if image.shape[:2] != label.shape:
            sizes.append(f"{item.image} {image.shape[1]}x{image.shape[0]}, label {label.shape[1]}x{label.shape[0]}")
        values, counts = np.unique(label, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
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
