"""Training runs of tiny heads on images in memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiny_cat_seg
import tiny_clip

from datasets.augment import Augment
from datasets.labels_for_training import LabelTable
from datasets.training import TrainingSamples, batches
from heads.training import plan as plans
from heads.training.begin import Recipe, begin
from heads.training.log import LOG
from heads.training.plan import HeadPlan, plan_head
from heads.training.run import Pace, Training
from heads.training.schedule import Schedule
from proxyclip.evaluation.distributed import Ranks

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


def planned(monkeypatch, head: str = "zegclip", setting: str = "inductive", **options) -> HeadPlan:
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
    plan: HeadPlan, folder: Path, settings: Recipe | None = None, iterations: int = 4, ranks=None, **changes
) -> Training:
    """A run that logs every iteration. changes: fields of `Pace`, and resume and start of `begin`."""
    settings, ranks = settings or recipe(), ranks or Ranks()
    others = {name: changes.pop(name) for name in ("resume", "start") if name in changes}
    schedule = Schedule(iterations, warmup=changes.pop("warmup", 0), minutes=changes.pop("minutes", None))
    pace = Pace(**{"batch": 4, "log_every": 1, "save_every": 100} | changes)
    folder.mkdir(exist_ok=True)
    facts = {"dataset": "tiny", "setting": settings.setting}
    return begin(plan, settings, schedule, pace, folder, {"seed": settings.seed}, facts, ranks, **others)


def stream(run: Training, setting: str = "inductive", samples: Sequence | None = None):
    """The batches that a run has not used."""
    table = LabelTable.fully(CLASSES) if setting == "fully" else getattr(LabelTable, setting)(CLASSES, SEEN)
    augment = Augment(scale=(60, 48), crop=run.head.options.image_size)
    chosen = TrainingSamples(samples or Images(), table, augment, 0)
    place = {"rank": run.ranks.rank, "ranks": run.ranks.world}
    return batches(chosen, batch=run.pace.batch, start=run.progress.iteration * run.images, **place)


def logged(folder: Path, group: str = "training", name: str = "loss") -> list[float]:
    """One number of every line of a log."""
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [line[group][name] for line in lines if group in line]
