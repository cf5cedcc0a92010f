"""The configuration of a training run.

A configuration is a Python file without control flow that sets `config`. It names head, dataset and setting. The
data root, the folder for results and the device are command-line options.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal, get_type_hints

from configs.base import EvalConfig
from datasets.augment import Augment
from proxyclip.errors import InputError, nearest
from proxyclip.options import check_type, field_types, parse_settings

RANGES = {  # field -> least, most
    "batch": (1, 4096), "accumulation": (1, 4096), "published_batch": (1, None), "iterations": (1, None),
    "rate": (0, 1), "min_rate": (0, 1), "power": (0, 10), "warmup": (0, None), "warmup_ratio": (0, 1),
    "weight_decay": (0, 1), "clip_norm": (0, None), "mask_weight": (0, None), "dice_weight": (0, None),
    "evaluate_every": (0, None), "save_every": (1, None), "log_every": (1, None), "seed": (0, None),
}  # fmt: skip
HARMLESS = ("batch", "accumulation", "published_batch", "checkpointing", "save_every", "log_every")  # besides rounding
ONCE = ("benchmark", "head", "options", "augment", "rate_factors")  # fields that --set does not change as a whole


@dataclass(frozen=True)
class TrainConfig:
    """One training run of a head on one benchmark.

    The defaults are those of all published runs of ZegCLIP, OTSeg and Cascade-CLIP.

    benchmark: the dataset, and the split that is evaluated (evaluation_split: another one). train_split: the split that
    is trained on. head: the name of a file in heads/; options: those of its options that differ from its defaults.
    clip: as in `proxyclip.load`, or "mini" for the embedded one.
    setting: the labels that training has (Zhou et al., 2023, §3.5). "inductive": those of the seen classes; the unseen
    ones are not known. "transductive": the same, but the names of the unseen classes are known, and pixels without a
    label of a seen class get pseudo labels. "fully": all. unseen: the name of the split of classes, a key of the
    dataset's `unseen`.
    augment: how training images are cut and changed; its crop is the head's image_size.
    batch: images at a time in each process. accumulation: batches whose gradients are averaged for one iteration.
    published_batch: images per iteration of the published run, all processes together, for a note if it is another.
    rate, min_rate, schedule, power, warmup, warmup_ratio: see `heads.training.recipe.Schedule`. rate_factors: start of
    parameter names -> factor on their rate. weight_decay: of everything that is trained; decay_norms: of norms as well,
    as in the published runs. clip_norm: largest norm of all gradients together, 0 for no limit.
    loss: "mask", focal and dice loss: for mask_weight, dice_weight and void see `heads.losses.mask_loss`; or
    "cross_entropy". checkpointing: less memory for more time.
    evaluate_every, save_every, log_every: in iterations; evaluate_every 0: only at the end.
    """

    benchmark: EvalConfig
    head: str
    setting: Literal["inductive", "transductive", "fully"]
    iterations: int
    unseen: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    clip: str = "ViT-B-16:openai"
    train_split: str = "train"
    evaluation_split: str | None = None
    augment: Augment = Augment()
    batch: int = 4
    accumulation: int = 1
    published_batch: int | None = 16
    rate: float = 2e-4
    min_rate: float = 1e-6
    schedule: Literal["poly", "cosine"] = "poly"
    power: float = 0.9
    warmup: int = 1500
    warmup_ratio: float = 1e-6
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    decay_norms: bool = True
    clip_norm: float = 0.0
    loss: Literal["mask", "cross_entropy"] = "mask"
    mask_weight: float = 100.0
    dice_weight: float = 1.0
    void: Literal["negative", "masked"] = "negative"
    checkpointing: bool = False
    evaluate_every: int = 2000
    save_every: int = 500
    log_every: int = 50
    seed: int = 0

    def __post_init__(self):
        hints = get_type_hints(TrainConfig)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in ("options", "rate_factors"):
                if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
                    raise InputError(f"{entry.name} must be a dict from names to values, not {value!r}")
            else:
                check_type(entry.name, value, hints[entry.name])
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and (value < least or most is not None and value > most):
                upper = "" if most is None else f" and at most {most}"
                raise InputError(f"{name} is {value}; it must be at least {least}{upper}")
        for name, factor in self.rate_factors.items():
            check_type(f"rate_factors[{name!r}]", factor, float)
            if factor < 0:
                raise InputError(f"rate_factors[{name!r}] is {factor}; it must be at least 0")
        if self.min_rate > self.rate:
            raise InputError(f"min_rate {self.min_rate} is larger than rate {self.rate}")
        if self.warmup >= self.iterations:
            shorter = f"--set warmup={self.iterations // 10}"
            raise InputError(f"warmup {self.warmup} is not shorter than {self.iterations} iterations: add {shorter}")
        for split in (self.train_split, self.evaluated):
            if split not in self.data.splits:
                raise InputError(f"{self.data.name} has no split {split!r}; {nearest(split, self.data.splits)}")
        self._check_unseen()

    def _check_unseen(self) -> None:
        if self.unseen is None and self.setting != "fully":
            raise InputError(f"setting {self.setting} needs unseen, the name of a split of classes")
        if self.unseen is not None and self.unseen not in self.data.unseen:
            raise InputError(
                f"{self.data.name} has no unseen {self.unseen!r}; {nearest(self.unseen, self.data.unseen)}"
            )

    @property
    def data(self):
        """The dataset."""
        return self.benchmark.data

    @property
    def evaluated(self) -> str:
        """The split that is evaluated."""
        return self.benchmark.split if self.evaluation_split is None else self.evaluation_split

    @property
    def left_out(self) -> tuple[str, ...]:
        """The unseen classes of the split that `unseen` names."""
        return () if self.unseen is None else tuple(self.data.unseen[self.unseen])

    @property
    def seen(self) -> tuple[str, ...]:
        """The classes that training has labels of, in label order."""
        unseen = () if self.setting == "fully" else self.left_out
        return tuple(name for name in self.data.classes if name not in unseen)

    @property
    def known(self) -> tuple[str, ...]:
        """The classes whose names training uses: those that the labels of a training sample count."""
        return self.seen if self.setting == "inductive" else self.data.classes

    def record(self) -> dict:
        """Everything that a result depends on besides the data itself and the images per iteration, ready for JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in HARMLESS}
        plain |= {"benchmark": self.data.name, "evaluation_split": self.evaluated, "augment": asdict(self.augment)}
        plain |= {"classes": self.data.classes, "seen": self.seen}
        return json.loads(json.dumps(plain, default=dict))


def transductive(config: TrainConfig) -> TrainConfig:
    """The transductive run that follows an inductive one: half as long, and nothing is subtracted from seen classes.

    It starts from the checkpoint of the inductive run (--init-from).
    """
    changes = {"iterations": config.iterations // 2, "evaluate_every": config.evaluate_every // 2}
    options = {**config.options, "seen_penalty": 0.0}
    return replace(config, setting="transductive", options=options, **changes)


def fully(config: TrainConfig) -> TrainConfig:
    """The same run with the labels of all classes: an upper bound of what the others can reach."""
    return replace(config, setting="fully")


def in_all_settings(name: str, config: TrainConfig) -> dict[str, TrainConfig]:
    """The inductive run with the two that follow from it, by their names."""
    return {
        f"{name}_inductive": config,
        f"{name}_transductive": transductive(config),
        f"{name}_fully": fully(config),
    }


def read_train_settings(config: TrainConfig, settings: Sequence[str], options: type) -> TrainConfig:
    """The configuration with ["rate=1e-3", "levels=2,3,4", "flip=0"] applied: its fields, those of its augmentation,
    and options of the head.

    options: the dataclass of the head's options. `crop` is that of the windows; the crop of the augmentation is the
    head's image_size. `flip` is that of the augmentation. Raises InputError for an unknown field, naming the nearest
    one, and for a value of another type.
    """
    of_images = {name: hint for name, hint in field_types(Augment).items() if name != "crop"}
    groups = {"config": field_types(TrainConfig), "augment": of_images, "options": field_types(options)}
    for setting in settings:
        if (name := setting.partition("=")[0]) in ONCE:
            raise InputError(f"cannot set {name}: it is part of the configuration file")
    values = parse_settings(settings, groups, f"the configuration or head {config.head}")
    return replace(
        config,
        **values["config"],
        options={**config.options, **values["options"]},
        augment=replace(config.augment, **values["augment"]),
    )
