"""The training data of a configuration."""

from collections.abc import Sequence
from dataclasses import replace

from configs.training import TrainConfig
from datasets.augment import LabelTable
from datasets.training import TrainingSamples, read_batches


def training_batches(config: TrainConfig, samples: Sequence, crop: int, **reading):
    """A context manager: the batches of one rank, with the labels that the setting allows.

    crop: side of the crops. reading: start, rank, ranks, workers and device of `read_batches`.
    """
    data = config.data
    if config.setting == "fully":
        table = LabelTable.fully(data.classes)
    else:
        table = getattr(LabelTable, config.setting)(data.classes, config.seen)
    augment = replace(config.augment, crop=crop)
    return read_batches(TrainingSamples(samples, table, augment, config.seed), batch=config.batch, **reading)
