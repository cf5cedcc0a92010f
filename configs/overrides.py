"""Settings from the command line: fields of the configuration, and options of the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from configs.base import MODEL_FIELDS, EvalConfig
from configs.class_file import read_words
from configs.published_protocol import published_protocol
from proxyclip.errors import InputError, nearest
from proxyclip.options import parse_option

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
    is that of the method's published runs; of_protocol: its arguments of proxyclip.load."""

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
) -> Overrides:
    """From ["short_side=448", "threshold=none", "words=my_classes.txt", "beta=1.4", "clip=ViT-L-14:openai"].

    A value is read by its field's annotation. `words` is a class file for the dataset: its lines become the prompts.
    method: the name of a method, or with its options that of a trained head. A head has its own sizes, which those of
    the benchmark do not replace, and uses the names of the classes, not its prompts. published: the settings change the
    protocol of the method's published runs instead of that of the benchmark.
    Raises InputError for an unknown field, naming the nearest one, and for a value of another type.
    """
    config, of_protocol = published_protocol(config, method) if published else (config, {})
    others = ("data", "prompts") if options is None else ("data", "prompts", *MODEL_FIELDS)
    own = [entry.name for entry in fields(EvalConfig) if entry.name not in others]
    changes, model, words = {}, {}, None
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"cannot set {setting!r}: write FIELD=VALUE")
        if key in own:
            changes[key] = parse_option(EvalConfig, key, value)
        elif key in MODELS:
            model[key] = value if MODELS[key] is str else parse_option(MODELS, key, value)
        elif key == "words" and options is not None:
            raise InputError(f"cannot set words={value}: {method} uses the names of the classes, not other words")
        elif key == "words":
            words, classes = value, config.data.classes
            changes["prompts"] = dict(zip(classes, read_words(value, len(classes)), strict=True))
            if config.background == "threshold":  # the file says what the background is, too
                changes.setdefault("background", "vocabulary")
        else:
            model[key] = read_option(key, value, method, options, [*own, *MODELS, "words"])
    return Overrides(config, replace(config, **changes), model, words, published, of_protocol)


def read_option(key: str, value: str, method: str, options: type | None, others: list[str]):
    """The value of an option of the method."""
    from proxyclip.methods import find_method  # here: only these options need torch

    options = options or find_method(method).Options
    known = [entry.name for entry in fields(options)]
    if key not in known:
        raise InputError(
            f"cannot set {key}={value}: neither the configuration nor {method} has a field {key!r}; "
            f"{nearest(key, [*known, *others])}"
        )
    return parse_option(options, key, value)
