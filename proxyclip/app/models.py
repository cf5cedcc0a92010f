"""The models that a person can choose, and those that are in memory."""

import gc
import threading
from collections import OrderedDict
from dataclasses import dataclass, fields, replace

from proxyclip.command.model_options import ModelChoice
from proxyclip.errors import InputError, nearest
from proxyclip.loading import preset_names
from proxyclip.methods import find_method, method_names
from proxyclip.refine import read_refinement
from proxyclip.segmentation import Segmentation
from proxyclip.segmentor import Segmentor
from proxyclip.vocabulary import Vocabulary

MOST = 2  # models in memory: two methods of one pair, to compare them
NO_REFINEMENT = "none"
OPENING = "proxyclip"  # the method that is chosen unless another is named
TITLES = {name: find_method(name).Method.method for name in method_names()}  # "proxyclip": "ProxyCLIP"


@dataclass(frozen=True)
class Choice:
    """pair: a preset, or the model of the command line. method: a method of that pair, or "" for a trained head."""

    pair: str
    method: str


@dataclass(frozen=True)
class Task:
    """What a model is asked for. vocabulary, threshold: as of `with_background`. refine: the text of a refinement."""

    vocabulary: Vocabulary
    threshold: float | None = None
    refine: str = NO_REFINEMENT


class Models:
    """What can be chosen: the model of the command line, then all presets. Holds the models in use.

    One pair is in memory at a time, with at most MOST of its methods. One run at a time.
    """

    def __init__(self, started: ModelChoice):
        """started: the model of the command line; raises InputError or NotFound if it cannot be loaded."""
        self.started, plan = started, started.plan()
        self.head = started.checkpoint and plan.module.Head.method
        self.first = Choice(name_of(started), "" if self.head else started.options.get("method", OPENING))
        self.pairs = tuple(dict.fromkeys([self.first.pair, *preset_names()]))
        self._held: OrderedDict[Choice, Segmentor] = OrderedDict()
        self._lock = threading.RLock()

    def methods(self, pair: str) -> dict[str, str]:
        """Name -> title of the methods that a pair can run."""
        return {"": self.head} if self.head and pair == self.first.pair else TITLES

    def check(self, choice: Choice) -> Choice:
        """InputError unless it can be chosen on the page."""
        if choice.pair not in self.pairs:
            raise InputError(f"unknown model {choice.pair!r}; {nearest(choice.pair, self.pairs)}")
        if choice.method not in self.methods(choice.pair):
            known = nearest(choice.method, self.methods(choice.pair))
            raise InputError(f"{choice.pair} has no method {choice.method!r}; {known}")
        return choice

    def holds(self, choice: Choice) -> bool:
        return choice in self._held

    def load(self, choice: Choice) -> Segmentor:
        """The model, from memory or loaded; InputError, or NotFound where weights are missing."""
        with self._lock:
            if choice in self._held:
                self._held.move_to_end(choice)
                return self._held[choice]
            planned = self.model_choice(choice).plan()  # errors leave the models in memory where they are
            if any(held.pair != choice.pair for held in self._held):
                self._held.clear()
            while len(self._held) >= MOST:
                self._held.popitem(last=False)
            gc.collect()  # before the next one takes memory
            self._held[choice] = planned.build()
            return self._held[choice]

    def refinements(self) -> dict[str, str]:
        """Text -> title of the refinements to choose from: none, PAMR, and that of the command line, which is first."""
        own = self.started.options.get("refine")
        return ({own: own} if own else {}) | {NO_REFINEMENT: "none", "pamr": "PAMR"}

    def segment(self, choice: Choice, image, task: Task, probabilities) -> Segmentation:
        """See `Segmentor.segment`; loads the model if need be. InputError for a refinement that cannot be chosen."""
        if task.refine not in self.refinements():
            raise InputError(f"unknown refinement {task.refine!r}; {nearest(task.refine, self.refinements())}")
        refinement = read_refinement(task.refine)
        with self._lock:
            model = self.load(choice)
            model.refinement = refinement and refinement.build()
            return model.segment(image, task.vocabulary, threshold=task.threshold, probabilities=probabilities)

    def model_choice(self, choice: Choice) -> ModelChoice:
        """The model of a choice. Settings of the command line apply to its own pair, to all methods that have them."""
        choice, options = self.check(choice), self.started.options
        if choice == self.first:
            return self.started
        if choice.pair == self.first.pair:
            known = {field.name for field in fields(find_method(choice.method).Options)}
            kept = tuple(text for text in self.started.settings if text.partition("=")[0] in known)
            return replace(self.started, options=options | {"method": choice.method}, settings=kept)
        placed = {name: options[name] for name in ("device", "precision")}
        return ModelChoice({"preset": choice.pair, "method": choice.method} | placed)


def name_of(started: ModelChoice) -> str:
    """What the page calls the model of the command line: a preset by its name."""
    given = started.options
    if started.checkpoint is not None:
        return f"trained: {started.checkpoint.name}"
    parts = [given[name] for name in ("preset", "clip", "vfm") if name in given]
    own = " with own weights" if given.keys() & {"checkpoint_clip", "checkpoint_vfm"} else ""
    return " + ".join(parts) + own
