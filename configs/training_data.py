"""The training data of a configuration."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from configs.training import TrainConfig
from datasets.labels_for_training import LabelTable
from datasets.training import TrainingSamples, batches


def training_batches(
    config: TrainConfig, samples: Sequence, crop: int, start: int, rank: int = 0, ranks: int = 1, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of one rank, images (B, 3, c, c) and labels (B, c, c), with the labels that the setting allows.

    crop: c. start: how many samples all ranks together have used. Closing the iterator ends the workers.
    """
    data = config.data
    if config.setting == "fully":
        table = LabelTable.fully(data.classes)
    else:
        table = getattr(LabelTable, config.setting)(data.classes, config.seen)
    chosen = TrainingSamples(samples, table, replace(config.augment, crop=crop), config.seed)
    return batches(chosen, batch=config.batch, start=start, rank=rank, ranks=ranks, workers=workers)
