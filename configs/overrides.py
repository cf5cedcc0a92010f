"""Settings from the command line: fields of a configuration, and options of the model."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs.base import MODEL_FIELDS, EvalConfig, read_words
from configs.published_protocols import published_protocol
from proxyclip.errors import InputError
from proxyclip.options import field_types, parse_settings

MODELS = {
    "clip": str,
    "vfm": str,
    "checkpoint_clip": str,
    "checkpoint_vfm": str,
    "vfm_features": str,
    "vfm_layer": int | None,
    "refine": str,
    "backend": str,
}


@dataclass(frozen=True)
class Overrides:
    """standard: the configuration of the protocol; config: with the settings applied; model: arguments of
    proxyclip.load among the settings; words: the class file that replaces the prompts; published: whether the protocol
    is that of the published runs; of_protocol: its arguments of proxyclip.load."""

    standard: EvalConfig
    config: EvalConfig
    model: dict
    words: str | None = None
    published: bool = False
    of_protocol: dict = field(default_factory=dict)


def read_overrides(
    config: EvalConfig,
    settings: Sequence[str],
    method: str,
    options: type | None = None,
    published: bool = False,
    trained_on: str | None = None,
) -> Overrides:
    """From ["short_side=448", "threshold=none", "words=my_classes.txt", "beta=1.4", "clip=ViT-L-14:openai"].

    A value is read by its field's annotation. `words` is a class file for the dataset: its lines become the prompts.
    method: the name of a method, or with its options that of a trained head. A head has its own sizes, which those of
    the benchmark do not replace, and uses the names of the classes, not its prompts. published: the settings change the
    protocol of the published runs instead of that of the benchmark; trained_on: of a head, the dataset of its training.
    Raises InputError for an unknown field, naming the nearest one, and for a value of another type.
    """
    is_head = options is not None
    published = published and trained_on != config.data.name  # there, a head is evaluated as it was trained
    config, of_protocol = published_protocol(config, method, trained_on) if published else (config, {})
    without = {"data", "prompts", *(MODEL_FIELDS if is_head else ())}
    groups = {
        "config": {name: hint for name, hint in field_types(EvalConfig).items() if name not in without},
        "model": MODELS | {"words": str},
    }
    if any(setting.partition("=")[0] not in groups["config"] | groups["model"] for setting in settings):
        groups["options"] = field_types(options or find_options(method))
    values = parse_settings(settings, groups, f"the configuration or {method}")
    changes, words = values["config"], values["model"].pop("words", None)
    if words is not None and is_head:
        raise InputError(f"cannot set words={words}: {method} uses the names of the classes, not other words")
    if words is not None:
        classes = config.data.classes
        changes["prompts"] = dict(zip(classes, read_words(words, len(classes)), strict=True))
        if config.background == "threshold":  # the file says what the background is, too
            changes.setdefault("background", "vocabulary")
    model = values["model"] | values.get("options", {})
    return Overrides(config, replace(config, **changes), model, words, published, of_protocol)


def find_options(method: str) -> type:
    from proxyclip.methods import find_method  # here: only these options need torch

    return find_method(method).Options


MOST = {"workers": 256}  # each is a process with the memory of an image


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where images are, and where results are written."""
    add = parser.add_argument
    add("--data-root", type=Path, help="folder that contains the datasets (default: $PROXYCLIP_DATA or data/)")
    add("--workdir", type=Path, default=Path("work/eval"), help="folder for results (default: work/eval)")
    add("--limit", type=int, metavar="N", help="only the first N images of a dataset")


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """How much runs at a time."""
    add = parser.add_argument
    add("--batch-windows", type=int, metavar="N", help="windows per batch (default: depends on their size)")
    add("--workers", type=int, metavar="N", help="data-loading processes (default: up to 8; 1 on a CPU)")


def check_numbers(options: argparse.Namespace, **least: int) -> None:
    """InputError for the first of these options that is below its minimum, or above its maximum in MOST."""
    for name, bound in least.items():
        if (value := getattr(options, name)) is not None and value < bound:
            raise InputError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")
        if value is not None and value > MOST.get(name, value):
            raise InputError(f"--{name.replace('_', '-')} must be at most {MOST[name]}, not {value}")
