"""Labelled images for calibration: of two folders, or of a benchmark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs.load import load_config
from datasets.folder import LabelledFolder
from proxyclip.errors import InputError, nearest
from proxyclip.vocabulary import Vocabulary


@dataclass(frozen=True)
class Labelled:
    """Images with labels, in which class 0 is the background.

    vocabulary: with a background. pairs: a sequence of stem, image (H, W, 3) and label (H, W). background: its kind.
    classes: the classes without background, as a command line names them. labels: the class of each stored one, where
    they differ. model_options: those that the benchmark sets.
    """

    vocabulary: Vocabulary
    pairs: Sequence
    background: str
    classes: str
    labels: tuple[int, ...] | None = None
    model_options: dict = field(default_factory=dict)

    def count(self, limit: int | None) -> int:
        return len(self.pairs.items[:limit])

    def samples(self, limit: int | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Stem, image (H, W, 3) and ground truth (H, W), negative where nothing is scored."""
        for index in range(self.count(limit)):
            stem, image, label = self.pairs[index]
            if self.labels is not None:
                label = np.where(label < 0, label, np.array(self.labels)[label])
            yield stem, image, label


def labelled_folder(images: Path, labels: Path, vocabulary: Vocabulary, classes: str) -> Labelled:
    """classes: as given on the command line."""
    pairs = LabelledFolder(images, labels, len(vocabulary.classes))
    return Labelled(vocabulary, pairs, kind_of(vocabulary), classes)


def labelled_benchmark(name: str, split: str | None, root: Path | None, chosen: Vocabulary | None) -> Labelled:
    """A benchmark with a background, or some classes of any benchmark, with all others as their background.

    chosen: those classes, with a background. Raises InputError for a name that is not a class.
    """
    config = load_config(name)
    data = config.data
    pairs, sizes = data.open(root, split or config.split), config.model_options
    if chosen is None:
        if config.background == "none":
            raise InputError(f"{data.name} has no background: choose some of its classes with --classes")
        return Labelled(config.vocabulary, pairs, config.background, ",".join(config.queries[1:]), None, sizes)
    labels = [0] * len(data.classes)
    for index, wanted in enumerate(chosen.names[1:], start=1):
        found = [name for name in wanted.split(";") if name.strip() in data.classes]
        if not found:
            raise InputError(f"{data.name} has no class {wanted!r}; {nearest(wanted, data.classes)}")
        for name in found:
            labels[data.classes.index(name.strip())] = index
    return Labelled(chosen, pairs, kind_of(chosen), ",".join(chosen.names[1:]), tuple(labels), sizes)


def kind_of(vocabulary: Vocabulary) -> str:
    return "vocabulary" if 0 in vocabulary.lists else "threshold"
