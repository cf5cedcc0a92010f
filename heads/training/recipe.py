"""What a run is told: how a head is trained, and the learning rate of every iteration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; fields as in `configs.training.TrainConfig`.

    known: the classes that labels count. left_out: the unseen classes.
    """

    setting: Literal["inductive", "transductive", "fully"]
    known: tuple[str, ...]
    left_out: tuple[str, ...]
    batch: int = 4
    accumulation: int = 1
    rate: float = 2e-4
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    decay_norms: bool = True
    clip_norm: float = 0.0
    loss: Literal["mask", "cross_entropy"] = "mask"
    mask_weight: float = 100.0
    dice_weight: float = 1.0
    void: Literal["negative", "masked"] = "negative"
    checkpointing: bool = False
    evaluate_every: int = 0
    save_every: int = 500
    log_every: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Schedule:
    """A rate that falls from its base to `min_rate`, after a linear warm-up.

    kind: "poly", the remaining share of the run to the power of `power`, or "cosine", half a period. During the first
    `warmup` iterations the rate is multiplied by a factor that rises linearly from `warmup_ratio` to 1.
    minutes: a limit of time. The run ends, and the rate reaches its minimum, after `iterations` iterations or that many
    minutes, whichever comes first: the share that is done is the larger one of both. Such a run depends on the speed of
    the machine.
    """

    iterations: int
    kind: Literal["poly", "cosine"] = "poly"
    power: float = 0.9
    min_rate: float = 1e-6
    warmup: int = 1500
    warmup_ratio: float = 1e-6
    minutes: float | None = None

    def done(self, iteration: int, seconds: float) -> float:
        """The share of the run that is over before an iteration, counted from 0; 1 or more: the run has ended."""
        share = iteration / self.iterations
        return share if self.minutes is None else max(share, seconds / 60 / self.minutes)

    def rate(self, base: float, iteration: int, done: float) -> float:
        """The rate of an iteration, counted from 0, where the share `done` of the run is over."""
        left = (1 - done) ** self.power if self.kind == "poly" else (1 + math.cos(math.pi * done)) / 2
        rate = (base - self.min_rate) * left + self.min_rate
        if iteration < self.warmup:
            rate *= 1 - (1 - iteration / self.warmup) * (1 - self.warmup_ratio)
        return rate
