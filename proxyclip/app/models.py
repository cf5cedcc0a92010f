"""The models that a visitor can choose, and those that are in memory."""

import gc
import threading
from dataclasses import fields, replace

from torch import nn

from proxyclip.errors import InputError, nearest
from proxyclip.loading import find_preset, plan, preset_names
from proxyclip.methods import find_method, method_names
from proxyclip.refine import read_refinement
from proxyclip.segmentation import Segmentation

NONE = "none"  # no method to compare with, no refinement, no background
TITLES = {name: find_method(name).Method.method for name in method_names()}  # "proxyclip": "ProxyCLIP"


class Models:
    """The model of the command line, a `ModelChoice`, and all presets; at most two methods of one pair are in memory.

    Raises InputError or NotFound if the model of the command line or its refinement is invalid.
    """

    def __init__(self, started):
        options, planned = started.options, started.plan()
        choices = {text: read_refinement(text) for text in (options.get("refine") or NONE, NONE, "pamr")}
        self.refinements = {text: choice and choice.build() for text, choice in choices.items()}
        self.started = replace(started, options={name: options[name] for name in options if name != "refine"})
        self.head = planned.module.Head.method if started.checkpoint else None
        named = " + ".join(options[name] for name in ("preset", "clip", "vfm") if name in options)
        self.pair = f"trained: {started.checkpoint.name}" if started.checkpoint else named
        sizes = {name: find_preset(name).megabytes for name in preset_names()}
        titles = {name: f"{name} ({size / 1000:.1f} GB)" if size else name for name, size in sizes.items()}
        self.pairs = {self.pair: self.pair} | titles
        self.method = options.get("method", "proxyclip")
        self._held, self._lock = {}, threading.Lock()  # a cancelled run ends only after its image

    def plan(self, pair: str, method: str, refine: str = NONE):
        """The title of a method and its checked plan; a trained head is the only method of its pair. InputError.

        Settings of the command line apply to all methods of its pair that have them.
        """
        for value, known in ((pair, [*self.pairs]), (method, [*TITLES]), (refine, [*self.refinements])):
            if value not in known:
                raise InputError(f"{value!r} cannot be chosen; {nearest(value, known)}")
        options, settings = self.started.options, self.started.settings
        if pair == self.pair and (self.head or method == self.method):
            return self.head or TITLES[method], self.started.plan()
        if pair != self.pair:
            return TITLES[method], plan(pair, method=method, device=options["device"], precision=options["precision"])
        known = {field.name for field in fields(find_method(method).Options)}
        kept = tuple(setting for setting in settings if setting.partition("=")[0] in known)
        return TITLES[method], replace(self.started, options=options | {"method": method}, settings=kept).plan()

    def segment(
        self, image, name: str, probabilities=(), *, pair, method, refine, vocabulary, threshold
    ) -> Segmentation:
        """See `Segmentor.segment`; loads the model if need be. NotFound where its weights are missing."""
        with self._lock:
            if (pair, method) not in self._held:
                planned = self.plan(pair, method)[1]  # errors leave the models in memory where they are
                self._held = {key: model for key, model in [*self._held.items()][-1:] if key[0] == pair}
                gc.collect()  # before the next one takes memory
                self._held[pair, method] = planned.build()
            model, refinement = self._held[pair, method], self.refinements[refine]
            model.refinement = refinement.to(model.device) if isinstance(refinement, nn.Module) else refinement
            return model.segment(image, vocabulary, threshold=threshold, probabilities=probabilities, names=name)
