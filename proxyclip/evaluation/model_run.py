"""A model as the evaluation loop wants it: from a stream of images to their labels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proxyclip.evaluation.prefetch import Ready
from proxyclip.segmentor import Sample, Segmentor
from proxyclip.vocabulary import Vocabulary


@dataclass(frozen=True)
class ModelRun:
    """A model with the names that it looks for.

    threshold: as of the benchmark. batch_windows: see `Segmentor.segment`.
    """

    model: Segmentor
    vocabulary: Vocabulary
    threshold: float = 0.0
    batch_windows: int | None = None

    def __call__(self, stream: Iterable[Ready]) -> Iterator[tuple[Ready, np.ndarray | Tensor]]:
        """Each image with its labels (H, W), in order; on an accelerator they stay there, to be counted."""
        rule = self.model.label_rule.with_threshold(self.threshold)
        samples = (Sample(ready.tensor, ready.label.shape, ready.stem, ready) for ready in stream)
        given = samples, self.vocabulary, rule, self.batch_windows
        for sample, found in self.model.predict_each(*given, confidence=False):
            yield sample.item, found.labels.numpy() if found.labels.device.type == "cpu" else found.labels

    def stage(self, ready: Ready) -> Ready:
        """An image and its label in memory that the model's device can read."""
        tensor = self.model.pin(ready.image)
        if self.model.device.type == "cpu":
            return ready._replace(tensor=tensor)
        ground_truth = torch.from_numpy(ready.label.astype(np.int16))  # (H, W)
        if self.model.device.type == "cuda":
            ground_truth = ground_truth.pin_memory()
        return ready._replace(tensor=tensor, ground_truth=ground_truth)
