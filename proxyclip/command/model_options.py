"""The command-line options that name a model, and the model they name."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.methods import method_names
from proxyclip.options import field_types, parse_settings

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
        planned = self.plan_with({})
        if not self.settings:
            return planned
        groups = {"options": field_types(type(planned.options))}
        return self.plan_with(parse_settings(self.settings, groups, "the options of the method")["options"])

    def plan_with(self, options: dict):
        """The plan with further options of the method or head."""
        if self.checkpoint is not None:
            return self.trained(self.checkpoint, self.train_config, **self.options, **options)
        from proxyclip.loading import plan  # here: wrong options are found without torch

        return plan(**self.options, **options)


def add_model_options(parser: argparse.ArgumentParser, heads: bool, preset: str = "mini, the embedded one") -> None:
    """heads: whether trained heads can be loaded, by --checkpoint. preset: the default, in words."""
    add = parser.add_argument_group("model").add_argument
    add("--preset", help=f"pair of models (default: {preset}); `proxyclip presets` lists them")
    add("--method", help=f"{', '.join(method_names())} (default: proxyclip)")
    add("--clip", metavar="NAME", help="replaces the preset's CLIP, e.g. ViT-B-16:openai")
    add("--vfm", metavar="NAME", help="replaces the preset's VFM, e.g. dino-vitb8")
    add("--checkpoint-clip", metavar="FILE", help="CLIP weights, instead of a download")
    add("--checkpoint-vfm", metavar="FILE", help="VFM weights, instead of a download")
    if heads:
        what = "a trained head, instead of a preset: the WORKDIR of train.py, a file in it, or a published .pth"
        add("--checkpoint", type=Path, metavar="FILE", help=what)
        how = "the run in configs/heads/ that a published checkpoint was trained in; checked for others"
        add("--train-config", metavar="NAME", help=how)
    add("--refine", metavar="NAME", help='of score maps: "pamr", "masks:FOLDER", "sam:CHECKPOINT" (default: none)')
    add("--backend", help="of the image towers: torch (default), or openvino, for a CPU")
    of = "options of the method, such as short_side=672 or beta=1.4"
    add("--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", dest="settings", help=of)
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    parser.add_argument("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")


def named_model(options: argparse.Namespace, preset: str = "mini") -> dict:
    """The arguments of `proxyclip.load`, or of `heads.load` beside a checkpoint, that the options give, besides device
    and precision; InputError for options that contradict each other.

    preset: the default where no part of a model is named.
    """
    named = {name: value for name in (*PAIRS, "method") if (value := getattr(options, name)) is not None}
    others = {name: value for name in ("refine", "backend") if (value := getattr(options, name))}
    if getattr(options, "checkpoint", None) is not None:
        if extra := [f"--{name.replace('_', '-')}" for name in named if name not in ("clip", "checkpoint_clip")]:
            raise InputError(f"--checkpoint names a whole model: leave out {' and '.join(extra)}")
    elif getattr(options, "train_config", None) is not None:
        raise InputError("--train-config describes a --checkpoint: name one")
    elif not named.keys() & set(PAIRS):
        named["preset"] = preset
    elif not {"clip", "vfm"} <= named.keys():
        named.setdefault("preset", PRESET)
    return named | others


def chosen_model(options: argparse.Namespace, trained: Callable | None) -> ModelChoice:
    """The same with its settings, ready to plan. trained: see `ModelChoice`."""
    named = named_model(options) | {"device": options.device, "precision": options.precision}
    of_head = getattr(options, "checkpoint", None), getattr(options, "train_config", None)
    return ModelChoice(named, tuple(options.settings), *of_head, trained)


def new_parser(doc: str, command: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help text is the docstring, line by line. command: a command of `proxyclip`."""
    formatter = argparse.RawDescriptionHelpFormatter
    name = command and f"proxyclip {command}"
    return argparse.ArgumentParser(prog=name, description=doc, formatter_class=formatter, allow_abbrev=command is None)
