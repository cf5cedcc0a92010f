"""How methods were evaluated by their authors: what differs from the standard protocol of each benchmark.

Of training-free methods in METHODS here; of trained heads, for each dataset that they were trained on, in the table
`published` of configs/heads/HEAD.py.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from configs.base import MODEL_FIELDS, EvalConfig
from proxyclip.errors import InputError

OF_CONFIG = {entry.name for entry in fields(EvalConfig)}
EIGHT = ("voc20", "voc21", "context59", "context60", "coco_object", "coco_stuff164k", "cityscapes", "ade20k")


@dataclass(frozen=True)
class PublishedProtocol:
    """source: where the values were found. everywhere: field -> value on all benchmarks. benchmarks: dataset -> field
    -> value, for those that were published, in addition.

    A field is one of `EvalConfig`, an option of the method or head, or "refine". Prompts are added to those of the
    benchmark. Of a head, only what differs from its training.
    """

    source: str
    benchmarks: Mapping[str, Mapping]
    everywhere: Mapping = field(default_factory=dict)


# What the published runs of SCLIP and its successors share: windows, thresholds, words.
FAMILY = {"short_side": 336, "crop": 224, "stride": 112, "multiple": 1, "logit_scale": 40.0}
CLOTHES = ("shirt", "jeans", "dress", "sweater", "skirt", "jacket")
PERSON = "; ".join(["person", *(f"person in {item}" for item in CLOTHES)])
VOC_WORDS = {"person": PERSON, "tvmonitor": "television monitor; tv monitor; monitor; television; screen"}
OBJECT_WORDS = {
    "background": "sky; wall; tree; wood; grass; road; sea; river; mountain; sands; desk; bed; building; cloud; lamp; "
    "door; window; wardrobe; ceiling; shelf; curtain; stair; floor; hill; rail; fence",
    "person": f"{PERSON}; body",
}
WHOLE_IMAGE = {"crop": 0, "two_steps": True}  # NACLIP and its successors on VOC
SCLIP = {
    "voc20": {"prompts": VOC_WORDS},
    "voc21": {"prompts": VOC_WORDS, "threshold": 0.1, "logit_scale": 65.0, "area": 0.1},
    "context59": {},
    "context60": {"threshold": 0.1, "logit_scale": 50.0},
    "coco_object": {"prompts": OBJECT_WORDS, "threshold": 0.1, "logit_scale": 50.0},
    "coco_stuff164k": {"short_side": 448},
    "cityscapes": {"short_side": 560},
    "ade20k": {},
}
NACLIP = {
    "voc20": {"prompts": VOC_WORDS, **WHOLE_IMAGE},
    "voc21": {"prompts": VOC_WORDS, "threshold": 0.1, **WHOLE_IMAGE},
    "context59": {},
    "context60": {"threshold": 0.1},
    "coco_object": {"prompts": OBJECT_WORDS, "threshold": 0.1},
    "coco_stuff164k": {},
    "cityscapes": {"short_side": 560},
    "ade20k": {},
}
FEEDBACK = {"feedback_weight": 0.7, "feedback_threshold": 0.25}  # ResCLIP where there are many classes
OF_SCLIP = PublishedProtocol("wangf3014/SCLIP b56bd30: configs and class files", SCLIP, FAMILY)  # arXiv:2312.01597

METHODS = {
    # The standard protocol of this project is that of ProxyCLIP's published runs (arXiv:2408.04883).
    "proxyclip": PublishedProtocol(
        source="mc-lan/ProxyCLIP 05c3c18: configs", benchmarks={name: {} for name in (*EIGHT, "context459", "ade847")}
    ),
    "clip": OF_SCLIP,  # as SCLIP's authors evaluated it, in their main table
    "sclip": OF_SCLIP,
    "scclip": PublishedProtocol(
        source="SuleBai/SC-CLIP 0417ba9: configs",
        everywhere=FAMILY,
        benchmarks={
            **SCLIP,
            "voc21": {**SCLIP["voc21"], "logit_scale": 50.0, "threshold": 0.15},
            "context60": {"logit_scale": 50.0, "threshold": 0.15},
            "coco_object": {**SCLIP["coco_object"], "logit_scale": 55.0, "threshold": 0.35},
        },
    ),
    "clearclip": PublishedProtocol(  # arXiv:2407.12442
        source="mc-lan/ClearCLIP ad68a40: configs",
        everywhere={"short_side": 448, "crop": 448, "stride": 224, "multiple": 0, "logit_scale": 50.0},
        benchmarks={
            **{name: {} for name in EIGHT},
            "voc21": {"background": "threshold", "threshold": 0.5},
            "context60": {"threshold": 0.15},
            "coco_object": {"background": "threshold", "threshold": 0.4},
            "cityscapes": {"crop": 224},
        },
    ),
    # In what its table calls ProxyCLIP's setting: the standard protocol, but a short side of 448 everywhere.
    "glaclip": PublishedProtocol(
        source="2btlFe/GLA-CLIP ba74915: table and configs",
        everywhere={"short_side": 448},
        benchmarks={name: {} for name in EIGHT},
    ),
    # With PAMR as in its repository's figures; `--set refine=none` for those without (arXiv:2404.08181).
    "naclip": PublishedProtocol(
        source="sinahmr/NACLIP 0cac3a6: configs and README", everywhere={**FAMILY, "refine": "pamr"}, benchmarks=NACLIP
    ),
    # NACLIP's windows and words without its refinement, and weights of its own for each benchmark; only those whose
    # weights could be confirmed (arXiv:2411.15851).
    "resclip": PublishedProtocol(
        source="yvhangyang/ResCLIP 0e085f7: configs",
        everywhere={**FAMILY, "residual_scale": 2.0, "feedback_scale": 2.1, "feedback_weight": 0.6},
        benchmarks={
            "voc20": {**NACLIP["voc20"], "residual_weight": 0.6, "feedback_threshold": 0.1},
            "context59": {"residual_weight": 0.4, "feedback_scale": 1.8, **FEEDBACK},
            "cityscapes": {**NACLIP["cityscapes"], "residual_weight": 0.2, "feedback_threshold": 0.1},
            "ade20k": {"residual_weight": 0.3, **FEEDBACK},
        },
    ),
    "pearl": PublishedProtocol(  # NACLIP's protocol with another refinement (arXiv:2603.21528)
        source="PGSmall/PEARL c26062b: configs",
        everywhere={**FAMILY, "refine": "tlp"},
        benchmarks={**NACLIP, "cityscapes": {**NACLIP["cityscapes"], "alpha": 0.3}, "ade20k": {"alpha": 0.3}},
    ),
}


def find_protocol(method: str, trained_on: str | None) -> PublishedProtocol:
    """The published protocol of a method, or of a head that was trained on a dataset; InputError if there is none."""
    if method in METHODS:
        return METHODS[method]
    if importlib.util.find_spec(f"configs.heads.{method}") is None:
        known = ", ".join(sorted(METHODS))
        raise InputError(f"{method} has no published protocol here; those with one: {known}")
    if trained_on is None:
        raise InputError(f"a published protocol of {method} needs the dataset of its training: name the --train-config")
    of_head = importlib.import_module(f"configs.heads.{method}").published
    if trained_on not in of_head:
        known = f"only those trained on {', '.join(of_head)}"
        raise InputError(f"{method} trained on {trained_on} has no published protocol for other datasets, {known}")
    return of_head[trained_on]


def published_protocol(config: EvalConfig, method: str, trained_on: str | None = None) -> tuple[EvalConfig, dict]:
    """The configuration of a benchmark as in the published run, and the arguments of the model besides.

    method: also the name of a trained head; trained_on: then the name of its dataset. On that one, the protocol is that
    of the training. Raises InputError for a method without a published protocol, and for a benchmark that is not part
    of it.
    """
    dataset = config.data.name
    if trained_on == dataset:
        return config, {}
    protocol = find_protocol(method, trained_on)
    if dataset not in protocol.benchmarks:
        of, known = f" trained on {trained_on}" if trained_on else "", ", ".join(protocol.benchmarks)
        raise InputError(f"the published protocol of {method}{of} says nothing about {dataset}, only about {known}")
    values = {**protocol.everywhere, **protocol.benchmarks[dataset]}
    prompts = dict(config.prompts)
    if values.get("background") == "threshold":  # one word in place of the list
        prompts.pop("background", None)
    prompts |= values.pop("prompts", {})
    of_config = OF_CONFIG - {*MODEL_FIELDS} if trained_on else OF_CONFIG  # a head has its own sizes
    changed = {name: value for name, value in values.items() if name in of_config}
    model = {name: value for name, value in values.items() if name not in of_config}
    return replace(config, **changed, prompts=prompts), model
