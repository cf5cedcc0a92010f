"""The command-line options that name a model, and the model they name."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from proxyclip.errors import InputError, nearest
from proxyclip.methods import method_names
from proxyclip.options import parse_option

PAIRS = ("preset", "clip", "vfm", "checkpoint_clip", "checkpoint_vfm")
PRESET = "vitb16-dino"  # completes a pair of which one half is named


@dataclass(frozen=True)
class ModelChoice:
    """What a command line says about a model; can be pickled, for other processes.

    options: arguments of `proxyclip.load`, or of `heads.load` beside the checkpoint. settings: FIELD=VALUE for the
    options of the method or head. trained: from a checkpoint, the name of its training configuration and options to the
    plan of a trained head; None where heads are not installed.
    """

    options: dict
    settings: tuple[str, ...] = ()
    checkpoint: Path | None = None
    train_config: str | None = None
    trained: Callable | None = field(default=None, repr=False)

    def on(self, device: str | None) -> "ModelChoice":
        """The same model on another device; None changes nothing."""
        return self if device is None else replace(self, options=self.options | {"device": device})

    def described(self) -> dict:
        """What results depend on, ready for JSON."""
        named = {name: value for name, value in self.options.items() if name != "device"}
        if self.checkpoint is not None:
            named |= {"checkpoint": os.path.abspath(self.checkpoint), "train_config": self.train_config}
        return {name: str(value) for name, value in named.items()} | {"settings": [*self.settings]}

    def plan(self):
        """A checked plan of the model, whose `build()` loads it; InputError or NotFound."""
        if self.checkpoint is None:
            from proxyclip.loading import plan  # here: wrong options are found without torch

            kind = plan(**self.options).method.Options if self.settings else None
            return plan(**self.options, **read_settings(kind, self.settings))
        planned = self.trained(self.checkpoint, self.train_config, **self.options)
        if not self.settings:
            return planned
        settings = read_settings(planned.head.Options, self.settings)
        return self.trained(self.checkpoint, self.train_config, **self.options, **settings)


def add_model_options(parser: argparse.ArgumentParser, heads: bool) -> None:
    """heads: whether trained heads can be loaded, by --checkpoint."""
    add = parser.add_argument_group("model").add_argument
    add("--preset", help="pair of models (default: mini, the embedded one); `presets` lists them")
    add("--method", help=f"{', '.join(method_names())} (default: proxyclip)")
    add("--clip", metavar="NAME", help="replaces the preset's CLIP, e.g. ViT-B-16:openai")
    add("--vfm", metavar="NAME", help="replaces the preset's VFM, e.g. dino-vitb8")
    add("--checkpoint-clip", metavar="FILE", help="CLIP weights, instead of a download")
    add("--checkpoint-vfm", metavar="FILE", help="VFM weights, instead of a download")
    if heads:
        what = "a trained head, instead of a preset: the WORKDIR of train.py, a file in it, or a published .pth"
        add("--checkpoint", type=Path, metavar="FILE", help=what)
        add("--train-config", metavar="NAME", help="what a published checkpoint was trained with, in configs/heads/")
    add("--refine", metavar="NAME", help='of score maps: "pamr", "masks:FOLDER", "sam:CHECKPOINT" (default: none)')
    of = "options of the method, such as short_side=672 or beta=1.4"
    add("--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", dest="settings", help=of)
    add("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    add("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")
    add("--backend", help="of the image towers: torch (default), or openvino, for a CPU")


def chosen_model(options: argparse.Namespace, trained: Callable | None) -> ModelChoice:
    """The model that the options name; InputError for options that contradict each other."""
    given = {name: getattr(options, name) for name in ("method", *PAIRS) if getattr(options, name) is not None}
    placed = {"device": options.device, "precision": options.precision}
    placed |= {name: value for name in ("refine", "backend") if (value := getattr(options, name))}
    settings, checkpoint = tuple(options.settings), getattr(options, "checkpoint", None)
    if checkpoint is None:
        if getattr(options, "train_config", None) is not None:
            raise InputError("--train-config describes a --checkpoint: name one")
        if not given.keys() & set(PAIRS):
            given["preset"] = "mini"
        elif not {"clip", "vfm"} <= given.keys():
            given.setdefault("preset", PRESET)
        return ModelChoice(given | placed, settings)
    clip = {name: given.pop(name) for name in ("clip", "checkpoint_clip") if name in given}
    if given:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"--checkpoint names a whole model: leave out {named}")
    return ModelChoice(clip | placed, settings, checkpoint, options.train_config, trained)


def read_settings(kind: type | None, settings: Sequence[str]) -> dict:
    """From ["beta=1.4", "short_side=672"], read by the annotations of `kind`; InputError for an unknown field."""
    known, values = [entry.name for entry in fields(kind)] if kind else [], {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"cannot set {setting!r}: write FIELD=VALUE")
        if key not in known:
            raise InputError(f"cannot set {key}={value}: the method has no option {key!r}; {nearest(key, known)}")
        values[key] = parse_option(kind, key, value)
    return values
