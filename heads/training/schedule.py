"""The learning rate of every iteration."""

import math
from dataclasses import dataclass
from typing import Literal


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
