"""Training runs of tiny heads on images in memory."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiny_cat_seg
import tiny_clip
import torch

from datasets.augment import Augment, LabelTable
from datasets.training import Batches, TrainingSamples, to_tensors
from heads.training import plan as plans
from heads.training.log import LOG
from heads.training.plan import plan_head
from heads.training.recipe import Recipe, Schedule
from heads.training.run import Training, begin
from proxyclip.evaluation.ranks import Ranks
from proxyclip.loading import Plan

CLASSES = ("sky", "grass", "car", "boat", "tree", "road")
UNSEEN = ("boat", "tree")
SEEN = tuple(name for name in CLASSES if name not in UNSEEN)
SMALL = {
    "image_size": 32, "short_side": 40, "crop": 32, "stride": 16, "prompts": 3, "decoder_heads": 2, "dropout": 0.0,
}  # fmt: skip
OPTIONS = {
    "zegclip": SMALL,
    "otseg": {**SMALL, "templates": ("a {}.", "some {}.")},
    "cascade_clip": {**SMALL, "levels": (0,), "group_size": 1},
    "cat_seg": {**tiny_cat_seg.OPTIONS, "guidance_blocks": (0, 0)},
}
PROMPTED = tuple(head for head, options in OPTIONS.items() if "prompts" in options)  # with a frozen CLIP


class Item(NamedTuple):
    stem: str


class Images(Sequence):
    """Images with blocks of all classes, each in a colour of its own. relabel: class -> the class that its pixels are
    labelled as."""

    def __init__(self, count: int = 12, relabel: dict[str, str] | None = None):
        self.items = [Item(f"image{index}") for index in range(count)]
        self.values = np.array([CLASSES.index((relabel or {}).get(name, name)) for name in CLASSES], np.int32)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        random = np.random.default_rng(index)
        blocks = random.integers(0, len(CLASSES), (4, 5)).repeat(12, 0).repeat(12, 1)  # (48, 60)
        colours = np.random.default_rng(99).integers(0, 256, (len(CLASSES), 3))
        image = (colours[blocks] + random.integers(-20, 20, (*blocks.shape, 3))).clip(0, 255).astype(np.uint8)
        return self.items[index].stem, image, self.values[blocks]


def planned(monkeypatch, head: str = "zegclip", setting: str = "inductive", **options) -> Plan:
    """The plan of a head on the tiny CLIP."""
    monkeypatch.setattr(plans, "find_clip", lambda name: (name, None))
    monkeypatch.setattr(plans, "load_clip", lambda *_: (tiny_clip.clip(), None))
    monkeypatch.setattr(plans, "bare_clip", lambda _: tiny_clip.clip().to("meta"))
    seen = CLASSES if setting == "fully" else SEEN
    return plan_head(head, OPTIONS[head] | options, "tiny", CLASSES, seen, "cpu", "fp32")


def recipe(setting: str = "inductive", **fields) -> Recipe:
    known = SEEN if setting == "inductive" else CLASSES
    return Recipe(**{"setting": setting, "known": known, "left_out": UNSEEN, "rate": 1e-3} | fields)


def new_run(
    plan: Plan, folder: Path, settings: Recipe | None = None, iterations: int = 4, ranks=None, **changes
) -> Training:
    """A run that logs every iteration. changes: fields of the recipe or the schedule, and options of `begin`."""
    options = {name: changes.pop(name) for name in ("resume", "start", "limit") if name in changes}
    schedule = Schedule(iterations, warmup=changes.pop("warmup", 0), minutes=changes.pop("minutes", None))
    settings = replace(settings or recipe(), **{"log_every": 1, "save_every": 100} | changes)
    folder.mkdir(exist_ok=True)
    facts = {"dataset": "tiny", "setting": settings.setting}
    record = {"seed": settings.seed}
    return begin(
        plan, settings, schedule, folder=folder, settings=record, facts=facts, ranks=ranks or Ranks(), **options
    )


def stream(run: Training, setting: str = "inductive", samples: Sequence | None = None):
    """The batches that a run has not used."""
    table = LabelTable.fully(CLASSES) if setting == "fully" else getattr(LabelTable, setting)(CLASSES, SEEN)
    augment = Augment(scale=(60, 48), crop=run.head.options.image_size)
    batches = Batches(TrainingSamples(samples or Images(), table, augment, 0), run.recipe.batch)
    start = run.progress.iteration * run.images + run.ranks.rank * run.recipe.batch
    for first in itertools.count(start, run.recipe.batch * run.ranks.world):
        yield to_tensors(*map(torch.from_numpy, batches[first]), augment.padding)


def logged(folder: Path, group: str = "training", name: str = "loss") -> list[float]:
    """One number of every line of a log."""
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [line[group][name] for line in lines if group in line]
