"""Settings of a training run from the command line: fields of the configuration, of its augmentation, of the head."""

from collections.abc import Sequence
from dataclasses import fields, replace

from configs.training import ONCE, TrainConfig
from datasets.augment import Augment
from proxyclip.errors import InputError, nearest
from proxyclip.options import parse_option


def read_train_settings(config: TrainConfig, settings: Sequence[str], options: type) -> TrainConfig:
    """The configuration with ["rate=1e-3", "levels=2,3,4", "flip=0"] applied.

    options: the dataclass of the head's options. A value is read by its field's annotation. `crop` is that of the
    windows; the crop of the augmentation is the head's image_size. Raises InputError for an unknown field, naming the
    nearest one, and for a value of another type.
    """
    own = {entry.name for entry in fields(TrainConfig)} - {*ONCE}
    of_head = {entry.name for entry in fields(options)}
    of_images = {entry.name for entry in fields(Augment)} - {"crop"}
    changes, of_options, of_augment = {}, {}, {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"cannot set {setting!r}: write FIELD=VALUE")
        for names, kind, found in (
            (own, TrainConfig, changes), (of_head, options, of_options), (of_images, Augment, of_augment)
        ):  # fmt: skip
            if key in names:
                found[key] = parse_option(kind, key, value)
                break
        else:
            if key in ONCE:
                raise InputError(f"cannot set {key}: it is part of the configuration file")
            raise InputError(
                f"cannot set {key}={value}: neither the configuration nor head {config.head} has a field {key!r}; "
                f"{nearest(key, own | of_head | of_images)}"
            )
    augment = replace(config.augment, **of_augment)
    return replace(config, **changes, options={**config.options, **of_options}, augment=augment)
